"""Distill a text-to-audio diffusion teacher into a SoundCTM student.

accelerate launch training/train_ctm.py --teacher_model cvssp/audioldm-s-full-v2 --dataset_name my_sounds \
    --output_dir runs/student
python training/train_ctm.py --teacher_model runs/teacher --vae runs/autoencoder/vae --text_encoder text_encoder \
    --captions captions.txt --output_dir runs/student

The teacher is a folder or Hub id of an AudioLDM, MusicLDM, AudioLDM2, Tango or Stable Audio pipeline, or the output of
train_teacher.py. `--preset` sets the values of a published recipe. OUTPUT_DIR/unet (OUTPUT_DIR/transformer for
transformers) holds the EMA of the weights, which is the model. If the teacher has a vocoder or needs none, OUTPUT_DIR
is a whole `SoundCTMPipeline`. With `--lora_rank` it holds an adapter of a few MB instead, for
`SoundCTMPipeline.from_teacher(...).load_lora_weights`.

SIGTERM or SIGUSR1, sent to the script and not to its launcher, writes a checkpoint and ends the run with exit code 0.
"""

import argparse
import time
from argparse import BooleanOptionalAction
from pathlib import Path

from diffusers_soundctm.training.config import (
    add_data_arguments,
    add_report_arguments,
    add_scheduler_arguments,
    add_stream_arguments,
    begin_script,
    cache_dir,
    data_settings,
    missing_packages,
    parse_with_config,
    preset_names,
    run_script,
)
from diffusers_soundctm.training.ranges import CHOICES

FP16_GRADIENT_SCALE = 2.0**14


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=preset_names(), help="published recipe whose values replace the defaults")
    add_data_arguments(parser, from_teacher=True)
    parser.set_defaults(dataset_name=None)
    parser.add_argument(
        "--captions", help="text file, one caption per line: distill from captions and noise alone, without audio"
    )
    parser.add_argument("--teacher_model", default=..., help="folder or Hub id of the teacher's pipeline")
    parser.add_argument(
        "--allow_distilled_teacher",
        action="store_true",
        help="accept a teacher that is distilled already, whose trajectories are not those of its data",
    )
    parser.add_argument("--vocoder", help="folder of the vocoder, if the teacher has none")
    add_stream_arguments(parser)
    add_objective_arguments(parser)
    add_student_arguments(parser)
    run = add_optimizer_arguments(parser)
    add_report_arguments(parser, run)
    args = parse_with_config(parser, argv)
    if args.omega is not None:
        args.omega_min = args.omega_max = args.omega
    problem = missing_packages(args) or contradiction(args)
    if problem:
        parser.error(problem)
    return args


def add_objective_arguments(parser: argparse.ArgumentParser) -> None:
    loss = parser.add_argument_group("objective")
    loss.add_argument("--num_scales", type=int, default=40, help="noise levels of the teacher's solver, N")
    loss.add_argument("--trajectory_reuse", type=int, default=4, help="updates that one solved trajectory serves, K")
    loss.add_argument("--omega", type=float, help="one guidance scale to embed, instead of a range")
    loss.add_argument("--omega_min", type=float, default=2.0, help="smallest guidance scale to embed")
    loss.add_argument("--omega_max", type=float, default=5.0, help="largest guidance scale to embed")
    loss.add_argument("--caption_dropout", type=float, default=0.1, help="probability of an empty prompt")
    loss.add_argument(
        "--feature_distance",
        choices=CHOICES["feature_distance"],
        default="output",
        help="how two jumps are compared: in the teacher's features (full, half), in units of the network's output "
        "(output), or as latents (l2, pseudo_huber)",
    )
    loss.add_argument(
        "--match_point",
        choices=CHOICES["match_point"],
        default="zs",
        help="where jumps are compared: at level s (zs), or after a jump to sigma_min (z0)",
    )
    loss.add_argument("--denoising_weight", type=float, default=1.0, help="lambda; 0 omits score matching")
    loss.add_argument(
        "--denoising_target",
        choices=CHOICES["denoising_target"],
        default="teacher",
        help="what g(z, t, t) is trained against: the guided teacher, or the clips (the paper's), whose best denoiser "
        "has no guidance",
    )
    loss.add_argument(
        "--denoising_levels",
        choices=CHOICES["denoising_levels"],
        default="mixed",
        help="noise levels of the guided teacher's targets: uniform on the grid, or half of them near exp(N(0, 1))",
    )
    loss.add_argument(
        "--adaptive_weight",
        action=BooleanOptionalAction,
        default=False,
        help="scale the denoising loss to the consistency loss by their gradients on the last layer (the paper's)",
    )
    loss.add_argument(
        "--target_sigma_min_rate", type=float, default=0.0, help="additional fraction of targets s = sigma_min"
    )
    loss.add_argument("--step_count_power", type=float, default=1.0, help="p in P(k) ~ k^p, for k solver steps")
    loss.add_argument(
        "--solve_to_target",
        action=BooleanOptionalAction,
        default=True,
        help="the solver integrates down to s, so that the target needs no EMA: u = s",
    )
    loss.add_argument(
        "--sampler_rate",
        type=float,
        default=0.25,
        help="fraction of training pairs (t, s) that are a random step of a 1-, 2-, 4-, 8- or 16-step sampler",
    )


def add_student_arguments(parser: argparse.ArgumentParser) -> None:
    student = parser.add_argument_group("student")
    student.add_argument(
        "--branch_init",
        choices=CHOICES["branch_init"],
        default="zero",
        help="initial weights of the s and omega branches: zero, so that training starts at the teacher, or random as "
        "in the release (reference)",
    )
    student.add_argument("--initial_unet", help="folder of a student to start from, instead of the teacher's weights")
    student.add_argument("--lora_rank", type=int, help="train an adapter of this rank instead of the whole network")
    student.add_argument("--lora_alpha", type=float, help="alpha of the adapter; by default its rank")


def add_optimizer_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    run = parser.add_argument_group("optimization")
    run.add_argument(
        "--train_batch_size", type=int, default=16, help="clips per step, over all processes and accumulation steps"
    )
    run.add_argument(
        "--gradient_accumulation_steps", type=int, default=1, help="micro-batches per step on each process"
    )
    run.add_argument("--max_train_steps", type=int, default=30000, help="optimization steps")
    run.add_argument("--optimizer", choices=CHOICES["optimizer"], default="radam", help="radam is the paper's")
    run.add_argument("--use_8bit_adam", action="store_true", help="AdamW with 8-bit moments; needs bitsandbytes")
    run.add_argument("--learning_rate", type=float, default=8e-5, help="learning rate after the warmup")
    run.add_argument("--adam_beta1", type=float, default=0.9, help="decay of the first moment")
    run.add_argument("--adam_beta2", type=float, default=0.999, help="decay of the second moment")
    run.add_argument("--adam_weight_decay", type=float, default=0.0, help="weight decay")
    run.add_argument("--adam_epsilon", type=float, default=1e-8, help="added to the denominator of the update")
    add_scheduler_arguments(run, schedule="cosine", warmup=0)
    run.add_argument("--max_grad_norm", type=float, default=1000.0, help="norm to which larger gradients are scaled")
    run.add_argument("--ema_decay", type=float, default=0.999, help="decay of the EMA: the target, and the model")
    run.add_argument(
        "--mixed_precision",
        choices=CHOICES["mixed_precision"],
        help="precision of the student; by default bf16, and no for teachers that amplify rounding errors: those that "
        "predict epsilon, and Stable Audio 3",
    )
    run.add_argument(
        "--teacher_precision",
        choices=CHOICES["teacher_precision"],
        help="precision of the frozen teacher and of the target, by default that of the student; no is the paper's",
    )
    run.add_argument("--gradient_checkpointing", action="store_true", help="less memory, more computation")
    return run


def contradiction(args: argparse.Namespace) -> str | None:
    """Arguments that contradict each other, as one sentence with the remedy."""
    if args.trajectory_reuse == 1 and (args.solve_to_target or args.sampler_rate):
        return (
            "--trajectory_reuse 1 solves only parts of a trajectory; --solve_to_target and --sampler_rate need whole "
            "ones: pass --trajectory_reuse 2 or more, or --no-solve_to_target --sampler_rate 0"
        )
    if args.omega_min > args.omega_max:
        return f"--omega_min {args.omega_min} is above --omega_max {args.omega_max}"
    if args.match_point == "z0" and args.feature_distance == "output":
        return "--match_point z0 does not support --feature_distance output, which compares jumps where they land"
    if args.initial_unet and args.lora_rank:
        return "--lora_rank starts from the teacher, where its adapter is loaded again; leave out --initial_unet"
    if (args.captions is None) == (args.dataset_name is None):
        return "pass either --dataset_name, or --captions to distill without audio"
    return None if args.captions is None else captions_problem(args)


def captions_problem(args: argparse.Namespace) -> str | None:
    """Arguments that need audio, together with `--captions`."""
    if not Path(args.captions).is_file():
        return f"--captions {args.captions} is not a file; give a text file with one caption per line"
    if args.trajectory_reuse == 1:
        return "--captions needs trajectories from pure noise: pass --trajectory_reuse 2 or more"
    if args.denoising_target == "data" and args.denoising_weight > 0:
        return "--denoising_target data needs clips; with --captions, pass --denoising_target teacher"
    for name in ("mix_rate", "sample_posterior", "streaming", "data_files", "max_train_samples"):
        if getattr(args, name):
            return f"--{name} needs clips; leave it out with --captions"
    return None


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

import torch
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.data.devices import moved
from diffusers_soundctm.data.sampling import step_generator
from diffusers_soundctm.data.sources import default_num_samples, distillation_data, source_fingerprint
from diffusers_soundctm.data.streams import WaveformData
from diffusers_soundctm.distillation.denoisers import Denoiser
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.objective import CTMObjective, micro_batches
from diffusers_soundctm.distillation.teachers import load_network_config, load_teacher, load_teacher_scheduler
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.lora import add_lora, save_lora
from diffusers_soundctm.pipelines.conditioning import latent_channels
from diffusers_soundctm.precision import full_float32
from diffusers_soundctm.preconditioning import karras_sigmas
from diffusers_soundctm.training.checkpoints import save_model
from diffusers_soundctm.training.counters import StreamCounts
from diffusers_soundctm.training.identity import data_fingerprint, weights_fingerprint
from diffusers_soundctm.training.loop import Recipe, accumulate, settings_of, train
from diffusers_soundctm.training.optimizers import make_optimizer
from diffusers_soundctm.training.preflight import (
    PRECISIONS,
    check_arguments,
    check_processes,
    check_run,
    choose_precision,
    make_accelerator,
)
from diffusers_soundctm.training.publish import publish
from diffusers_soundctm.training.sharding import Networks, process_rows
from diffusers_soundctm.training.validation import TrajectoryValidation, log_samples, make_samples


def last_layer(student: torch.nn.Module) -> torch.nn.Module:
    """The layer on which the gradients of the losses are compared."""
    names = ("conv_out", "postprocess_conv", "proj_out_conv", "proj_out")  # UNet, Stable Audio, ACE-Step, LongCat
    return getattr(student, next(name for name in names if hasattr(student, name)))


class DistillationRecipe(Recipe):
    """SoundCTM distillation: consistency along the guided teacher's trajectories, and denoising."""

    loss_weight = 0.05
    trajectories: TrajectoryValidation | None = None

    def setup(self) -> None:
        args, accelerator = self.args, self.accelerator
        self.teacher = load_teacher(
            args.teacher_model,
            allow_distilled=args.allow_distilled_teacher,
            vae=args.vae,
            text_encoder=args.text_encoder,
            vocoder=args.vocoder,
        )
        self.folder = self.teacher.family.network
        args.sampling_rate = args.sampling_rate or self.teacher.sampling_rate
        args.num_samples = args.num_samples or default_num_samples(args.dataset_name, self.teacher.default_num_samples)
        check_run(args, self.teacher, accelerator.num_processes)
        student = self.teacher.student(args.branch_init, args.initial_unet)
        with accelerator.main_process_first():
            self.data = distillation_data(
                data_settings(args),
                self.teacher.encoders,
                latent_channels(self.teacher.network.config),
                accelerator.device,
            )
        if not self.teacher.conditioning.fixed_length:
            student.register_to_config(sample_size=self.data.latent_shape[1])
        if args.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        frozen = self.teacher.network.eval().requires_grad_(False)
        frozen.to(accelerator.device, PRECISIONS[args.teacher_precision])
        self.setup_optimizer(student)
        self.stream, self.objective = self.make_stream(), self.make_objective()
        self.seconds_in_solver, self.started_at = 0.0, time.time()

    def setup_optimizer(self, student: torch.nn.Module) -> None:
        args = self.args
        if args.lora_rank:
            trained = add_lora(student, args.lora_rank, args.lora_alpha)
        else:
            trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        betas = (args.adam_beta1, args.adam_beta2)
        optimizer = make_optimizer(trained, args.optimizer, args.learning_rate, betas, args.adam_weight_decay,
                                   args.adam_epsilon, args.use_8bit_adam)  # fmt: skip
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        last_layer(student).weight.requires_grad_(True)  # its gradients weigh the losses, trained or not
        self.networks = Networks(self.accelerator, student, optimizer)
        self.network, self.model, self.average = student, self.networks.model, self.networks.average
        self.optimizer = self.networks.optimizer

    def make_stream(self) -> TripleStream:
        args, settings = self.args, self.teacher.scheduler.config
        sigmas = karras_sigmas(args.num_scales - 1, settings.sigma_min, settings.sigma_max, settings.rho)
        grid = Grid(sigmas, args.trajectory_reuse, args.target_sigma_min_rate, args.step_count_power,
                    args.solve_to_target, args.sampler_rate)  # fmt: skip
        return TripleStream(
            self.data,
            self.teacher.network,
            self.teacher.preconditioning,
            grid,
            batch_size=args.train_batch_size,
            rows=process_rows(args.train_batch_size, self.accelerator),
            seed=args.seed,
            guidance_scale_range=(args.omega_min, args.omega_max),
            caption_dropout=args.caption_dropout,
            denoising=args.denoising_weight > 0,
            denoising_target=args.denoising_target,
            denoising_levels=args.denoising_levels,
            device=self.accelerator.device,
        )

    def make_objective(self) -> CTMObjective:
        args, teacher, preconditioning = self.args, self.teacher, self.teacher.preconditioning
        frozen, features = PRECISIONS[args.teacher_precision], None
        if args.feature_distance in ("full", "half"):
            features = FeatureSpace(teacher.network, preconditioning, args.feature_distance, frozen)
        return CTMObjective(
            Denoiser(self.model, preconditioning),
            Denoiser(self.average, preconditioning, frozen),
            features,
            last_layer(self.network),
            distance=args.feature_distance,
            denoising_weight=args.denoising_weight,
            adaptive=args.adaptive_weight,
            match_sigma=teacher.scheduler.config.sigma_min if args.match_point == "z0" else None,
            reduce=lambda gradient: self.accelerator.reduce(gradient, "mean"),
            gradient_scale=FP16_GRADIENT_SCALE if args.mixed_precision == "fp16" else 1.0,
        )

    def identity(self) -> dict[str, object]:
        args = self.args
        streamed = args.streaming or args.data_files
        stream = source_fingerprint(args.dataset_name, args.data_files, args.output_dir) if streamed else None
        return {"clips": len(self.data), "data": data_fingerprint(self.data), "stream": stream,
                "teacher": weights_fingerprint(self.teacher.network)}  # fmt: skip

    @property
    def is_stream(self) -> bool:
        return isinstance(self.data, WaveformData) and self.data.skipped is not None

    def state(self) -> dict[str, object]:
        # A stream counts the clips that it skips over all runs.
        counters = {"data": StreamCounts(self.data)} if self.is_stream else {}
        return {**self.networks.state(self.network), **counters}

    def started(self) -> None:
        args = self.args
        if args.denoising_weight > 0 and args.denoising_target == "data" and args.omega_max > 1:
            self.accelerator.print(
                "--denoising_target data trains g(z, t, t) against the clips, whose best denoiser has no guidance, so "
                "many steps lose guidance; --denoising_target teacher keeps it."
            )
        if self.accelerator.is_main_process:
            self.teacher.scheduler.save_pretrained(self.output_dir / "scheduler")
            if self.accelerator.log_with:
                self.accelerator.init_trackers(args.tracker_project_name, loggable(settings_of(args)))

    def train_step(self, step: int) -> dict[str, float]:
        args, accelerator = self.args, self.accelerator
        # Dropout, if the network has any, depends on the step too.
        torch.manual_seed(step_generator(args.seed, step, stream=2).initial_seed() + accelerator.process_index)
        before = time.time()
        triples, noisy = self.stream.at(step)
        self.seconds_in_solver += time.time() - before
        count = args.gradient_accumulation_steps
        parts = micro_batches(triples, noisy, count)
        return accumulate(accelerator, self.model, parts, count, self.losses_of)

    def losses_of(self, part: tuple) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        triples, noisy = part
        losses = self.objective(triples, noisy)
        values = {"ctm": losses.consistency.mean()}
        if noisy is not None:
            values |= {"dsm": losses.denoising.mean(), "adaptive_weight": losses.adaptive_weight}
        return losses.total, values

    def ema_decay(self, step: int) -> float:
        return self.args.ema_decay

    def progress(self) -> dict[str, str]:
        elapsed = max(time.time() - self.started_at, 1e-9)
        return {"solver": f"{self.seconds_in_solver / elapsed:.0%}"}

    def save(self) -> None:
        distilled = self.networks.whole_average()
        self.counts = StreamCounts(self.data).state_dict() if self.is_stream else {}
        if self.accelerator.is_main_process and self.args.lora_rank:
            save_lora(distilled, self.output_dir)
        elif self.accelerator.is_main_process:
            save_model(distilled, self.output_dir / self.folder)
        self.distilled = distilled

    def pipeline(self, student: torch.nn.Module) -> SoundCTMPipeline:
        return SoundCTMPipeline.from_components(self.teacher.parts(student), (self.args.omega_min, self.args.omega_max))

    def after_step(self, done: int) -> None:
        args = self.args
        prompts = args.validation_prompts or args.validation_trajectory_prompts
        if not prompts or done % args.validation_steps:
            return
        distilled = self.networks.whole_average()
        if self.accelerator.is_main_process:
            try:
                self.validate(distilled, done)
            except Exception as error:  # whatever it is, a long run does not end because of it
                print(f"Validation after step {done} failed ({type(error).__name__}: {error}). Training continues.")

    def validate(self, distilled: torch.nn.Module, done: int) -> None:
        """Generate the validation prompts with the EMA, and compare it with the teacher, for files and trackers."""
        if self.args.validation_trajectory_prompts:
            self.compare_with_teacher(distilled, done)
        if self.args.validation_prompts:
            self.generate(distilled, done)

    def compare_with_teacher(self, distilled: torch.nn.Module, done: int) -> None:
        args = self.args
        if self.trajectories is None:
            self.trajectories = TrajectoryValidation(
                self.teacher,
                args.validation_trajectory_prompts,
                self.data.latent_shape,
                (args.omega_min + args.omega_max) / 2,
                args.num_samples / args.sampling_rate,
                cache_dir(args),
                args.seed,
                self.accelerator.device,
            )
        values = self.trajectories(distilled)
        tqdm.write(f"step {done}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        for tracker in self.accelerator.trackers:
            tracker.log(values, step=done)

    def generate(self, distilled: torch.nn.Module, done: int) -> None:
        args, folder = self.args, self.output_dir / "samples" / f"step-{done}"
        pipe = self.pipeline(distilled)
        models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        omega = (args.omega_min + args.omega_max) / 2
        steps = args.validation_num_inference_steps
        with moved(models, self.accelerator.device):
            samples = make_samples(pipe, args.validation_prompts, folder, omega, steps, args.seed)
        log_samples(self.accelerator.trackers, samples, folder / "spectrograms.png", done)

    def finish(self) -> dict[str, object]:
        if self.teacher.can_decode and not self.args.lora_rank:
            self.pipeline(self.distilled).save_pretrained(self.output_dir)
        counts = {"clips_read": self.counts["seen"], "clips_skipped": self.counts["reasons"]} if self.is_stream else {}
        return {"clips": len(self.data), **counts, "seconds_in_solver": round(self.seconds_in_solver)}

    def publish(self, record: dict[str, object]) -> None:
        if self.args.push_to_hub:
            url = publish(self.args, self.pipeline(self.distilled), self.distilled, record)
            print(f"Uploaded: {url}")


def loggable(arguments: dict[str, object]) -> dict[str, object]:
    """The arguments in types that trackers accept."""
    return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in arguments.items()}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_arguments(args)
    scheduler = load_teacher_scheduler(args.teacher_model)
    choose_precision(args, scheduler, load_network_config(args.teacher_model))
    trackers = None if args.report_to in (None, "none") else args.report_to.split(",")
    logs = str(Path(args.output_dir) / args.logging_dir)
    accelerator = make_accelerator(args.mixed_precision, log_with=trackers, project_dir=logs)
    check_processes(accelerator, args.use_8bit_adam)
    with full_float32(scheduler.config.sigma_max, scheduler.config.prediction_type):
        train(DistillationRecipe(args, accelerator))


if __name__ == "__main__":
    run_script(main)
