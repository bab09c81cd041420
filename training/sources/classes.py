"""The classes: their names, and the recordings or presets that they are made from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A soundfont preset. Effects are played at `key`, instruments at the keys of their class."""

    font: str
    bank: int
    preset: int
    key: int = 60


@dataclass(frozen=True)
class File:
    """A recorded file, by its name in `recordings.read`."""

    source: str
    name: str


Voice = Preset | File


@dataclass(frozen=True)
class SoundClass:
    """One class.

    Attributes:
        label: Value of the `label` column.
        kind: "instrument", "effect" or "recorded".
        nouns: Noun phrases with article ("a barking dog"); each names the sound plainly.
        clauses: Short sentences ("a dog barks"). Those of instruments follow from what is played.
        voices: What the class is made from.
        heldout: Voices that only the test split uses; if empty, a class holds out sample zones or pitches.
        keys: Lowest and highest MIDI key (instruments).
        styles: What an instrument plays.
        plural: Whether the nouns take a plural verb.
        interval: Smallest and largest time between events in seconds; None for continuous sounds.
        mixed: Whether every event draws its own voice.
    """

    label: str
    kind: str
    nouns: tuple[str, ...]
    voices: tuple[Voice, ...]
    clauses: tuple[str, ...] = ()
    heldout: tuple[Voice, ...] = ()
    keys: tuple[int, int] = (0, 127)
    styles: tuple[str, ...] = ()
    plural: bool = False
    interval: tuple[float, float] | None = None
    mixed: bool = False


_BLOWN = ("note", "repeat", "rise", "fall", "melody", "melody")
_RINGING = ("note", "repeat", "rise", "fall", "melody", "melody", "chord")
_STRUCK = ("repeat", "rise", "fall", "melody", "melody", "chord")
_BASS = ("repeat", "rise", "fall", "melody", "melody", "note")
_DRUM = ("beat",)


def _instrument(
    label: str, nouns: str, presets: int | tuple[int, ...], keys: tuple[int, int], styles: tuple[str, ...], **more: bool
) -> SoundClass:
    numbers = (presets,) if isinstance(presets, int) else presets
    voices = tuple(Preset("GM", 0, number) for number in numbers)
    return SoundClass(label, "instrument", tuple(nouns.split("; ")), voices, keys=keys, styles=styles, **more)


def _sounds(
    label: str,
    kind: str,
    nouns: str,
    clauses: str,
    voices: list[Voice],
    interval: tuple[float, float] | None = None,
    heldout: tuple[Voice, ...] = (),
    mixed: bool = False,
) -> SoundClass:
    return SoundClass(
        label,
        kind,
        tuple(nouns.split("; ")),
        tuple(voices),
        clauses=tuple(clauses.split("; ")),
        heldout=heldout,
        interval=interval,
        mixed=mixed,
    )


def _files(source: str, *names: str) -> tuple[File, ...]:
    return tuple(File(source, name) for name in names)


def _gs(bank: int, preset: int, key: int = 60) -> Preset:
    return Preset("GS", bank, preset, key)


def _gm(preset: int, key: int = 60) -> Preset:
    return Preset("GM", 0, preset, key)


INSTRUMENTS = (
    _instrument("piano", "a piano; a grand piano; an acoustic piano", 0, (36, 92), _RINGING),
    _instrument("electric piano", "an electric piano; a Rhodes piano", 4, (36, 84), _RINGING),
    _instrument("harpsichord", "a harpsichord; a baroque harpsichord", 6, (40, 84), _RINGING),
    _instrument("music box", "a music box; a tinkling music box", 10, (60, 96), _RINGING),
    _instrument("vibraphone", "a vibraphone; a shimmering vibraphone; a jazz vibraphone", 11, (53, 89), _RINGING),
    _instrument("marimba", "a marimba; a wooden marimba", 12, (45, 84), _STRUCK),
    _instrument("xylophone", "a xylophone; a bright xylophone", 13, (65, 96), _STRUCK),
    _instrument("tubular bells", "tubular bells; orchestral chimes", 14, (55, 79), _RINGING, plural=True),
    _instrument("church organ", "a church organ; a pipe organ; a cathedral organ", 19, (36, 84), _RINGING),
    _instrument("accordion", "an accordion; a squeezebox accordion", 21, (50, 86), _RINGING),
    _instrument("harmonica", "a harmonica; a mouth organ", 22, (58, 86), _BLOWN),
    _instrument(
        "acoustic guitar", "an acoustic guitar; a nylon string guitar; a classical guitar", 24, (40, 79), _RINGING
    ),
    _instrument(
        "electric guitar",
        "a distorted electric guitar; an electric guitar with distortion",
        (29, 30),
        (40, 79),
        _RINGING,
    ),
    _instrument("bass guitar", "a bass guitar; an electric bass", 33, (28, 50), _BASS),
    _instrument("violin", "a violin; a solo violin; a bowed violin", 40, (57, 93), _BLOWN),
    _instrument("cello", "a cello; a solo cello; a bowed cello", 42, (36, 69), _BLOWN),
    _instrument("pizzicato strings", "pizzicato strings; plucked strings", 45, (40, 84), _STRUCK, plural=True),
    _instrument("harp", "a harp; a concert harp", 46, (40, 93), _RINGING),
    _instrument("timpani", "timpani; kettle drums", 47, (38, 57), ("beat", "repeat", "melody"), plural=True),
    _instrument(
        "string ensemble", "a string ensemble; an orchestral string section; a string orchestra", 48, (40, 88), _RINGING
    ),
    _instrument("choir", "a choir; a choir singing ahh; a vocal choir", 52, (48, 79), _RINGING),
    _instrument("trumpet", "a trumpet; a solo trumpet", 56, (55, 84), _BLOWN),
    _instrument("trombone", "a trombone; a solo trombone", 57, (40, 70), _BLOWN),
    _instrument("tuba", "a tuba; a deep brass tuba", 58, (29, 53), _BLOWN),
    _instrument("french horn", "a French horn; a solo French horn", 60, (41, 74), _BLOWN),
    _instrument("saxophone", "a saxophone; a sax", (65, 66), (46, 80), _BLOWN),
    _instrument("oboe", "an oboe; a solo oboe", 68, (58, 86), _BLOWN),
    _instrument("clarinet", "a clarinet; a solo clarinet", 71, (50, 86), _BLOWN),
    _instrument("flute", "a flute; a solo flute", 73, (60, 93), _BLOWN),
    _instrument("pan flute", "a pan flute; an Andean pan flute", 75, (60, 88), _BLOWN),
    _instrument("whistle", "a whistle; a human whistle", 78, (67, 96), _BLOWN),
    _instrument("sitar", "a sitar; an Indian sitar", 104, (48, 79), _RINGING),
    _instrument("banjo", "a banjo; a plucked banjo", 105, (48, 81), _STRUCK),
    _instrument("koto", "a koto; a Japanese koto", 107, (48, 84), _STRUCK),
    _instrument("kalimba", "a kalimba; a thumb piano", 108, (55, 86), _STRUCK),
    _instrument("bagpipe", "a bagpipe; a Scottish bagpipe", 109, (55, 80), _BLOWN),
    _instrument("steel drums", "steel drums; Caribbean steel pans", 114, (55, 86), _STRUCK, plural=True),
    _instrument("taiko", "a taiko drum; a deep Japanese taiko drum", 116, (40, 60), _DRUM),
    _instrument("synthesizer", "a synthesizer; a buzzy saw wave synth", 81, (45, 86), _BLOWN),
    SoundClass(
        "drum kit",
        "instrument",
        ("a drum kit", "a drum set", "an acoustic drum kit"),
        tuple(Preset("GM", 128, number) for number in (0, 1, 2, 3, 8, 24, 32, 40, 16)),
        heldout=(Preset("GM", 128, 16),),
        styles=("rhythm",),
    ),
)

EFFECTS = (
    _sounds("rain", "effect", "rain; falling rain; a rain shower", "rain falls; it is raining", [_gs(1, 122)]),
    _sounds(
        "thunder",
        "effect",
        "thunder; rolling thunder; a thunder clap",
        "thunder rumbles; thunder cracks and rolls",
        [_gs(2, 122, 70)],
        (1.6, 4.0),
    ),
    _sounds(
        "wind",
        "effect",
        "howling wind; a strong wind; gusts of wind",
        "the wind howls; wind blows; the wind whistles",
        [_gs(3, 122, 76), File("openttd-opensfx", "52")],
    ),
    _sounds(
        "sea waves",
        "effect",
        "sea waves; ocean waves on a beach; surf on the shore",
        "waves roll onto a beach; ocean waves break on the shore",
        [_gm(122, 66)],
    ),
    _sounds(
        "bubbles",
        "effect",
        "bubbles under water; bubbling water",
        "bubbles rise in water; water bubbles",
        [_gs(5, 122)],
    ),
    _sounds(
        "dog",
        "effect",
        "a barking dog; a dog barking; dog barks",
        "a dog barks; a dog is barking",
        [_gs(1, 123, 71)],
        (0.32, 0.8),
    ),
    _sounds(
        "birds",
        "effect",
        "chirping birds; birdsong; a bird tweeting",
        "birds chirp; a bird sings; birds tweet",
        [_gm(123), _gs(3, 123, 62), *_files("openttd-opensfx", "66", "72")],
        (0.6, 1.4),
        heldout=_files("openttd-opensfx", "72"),
    ),
    _sounds(
        "horse gallop",
        "effect",
        "a galloping horse; horse hooves galloping; the hoofbeats of a horse",
        "a horse gallops by; a horse is galloping",
        [_gs(2, 123)],
    ),
    _sounds(
        "door creak",
        "effect",
        "a creaking door; a squeaky door opening; a door creak",
        "a door creaks open; an old door squeaks",
        [_gs(2, 124)],
        (1.3, 2.2),
    ),
    _sounds(
        "car engine",
        "effect",
        "a car engine; a running car engine; a car motor running",
        "a car engine runs; a car engine turns over",
        [_gs(1, 125, 64)],
    ),
    _sounds(
        "car crash",
        "effect",
        "a car crash; a crashing car; a vehicle collision",
        "a car crashes; two cars collide",
        [_gs(4, 125, 66), *_files("openttd-opensfx", "17")],
        (1.2, 2.4),
    ),
    _sounds(
        "siren",
        "effect",
        "a siren; a police siren; an emergency vehicle siren",
        "a siren wails; a police siren sounds",
        [_gs(5, 125, 59)],
    ),
    _sounds(
        "train",
        "effect",
        "a train passing; a train on the rails; a passing railway train",
        "a train passes; a train rattles along the tracks",
        [_gs(6, 125)],
    ),
    _sounds(
        "jet plane",
        "effect",
        "a jet plane; a jet aircraft; a roaring jet engine",
        "a jet plane flies over; a jet engine roars",
        [_gs(7, 125), *_files("openttd-opensfx", "9", "59", "61")],
        heldout=_files("openttd-opensfx", "61"),
    ),
    _sounds(
        "helicopter",
        "effect",
        "a helicopter; a hovering helicopter; helicopter rotor blades",
        "a helicopter flies; a helicopter hovers overhead",
        [_gm(125)],
    ),
    _sounds(
        "footsteps",
        "effect",
        "footsteps; a person's footsteps; walking footsteps",
        "someone walks; footsteps go by",
        [_gs(5, 126)],
        (0.3, 0.75),
    ),
    _sounds(
        "laugh",
        "effect",
        "a laughing person; laughter; a person laughing",
        "a person laughs; someone laughs",
        [_gs(1, 126)],
        (0.9, 1.6),
    ),
    _sounds(
        "scream",
        "effect",
        "a screaming person; a scream; a person screaming",
        "a person screams; someone screams",
        [_gs(2, 126)],
        (1.0, 2.0),
    ),
    _sounds(
        "heartbeat",
        "effect",
        "a heartbeat; a beating heart; the beat of a heart",
        "a heart beats; a heart is beating",
        [_gs(4, 126)],
        (0.35, 0.95),
    ),
    _sounds(
        "applause",
        "effect",
        "applause; a clapping audience; a crowd applauding",
        "an audience applauds; a crowd claps",
        [_gm(126), *_files("openttd-opensfx", "29")],
    ),
    _sounds(
        "gunshot",
        "effect",
        "gunshots; a gun shot; a gun firing",
        "a gun fires; someone fires a gun",
        [_gm(127, 66), *_files("freedoom", "DSPISTOL", "DSSHOTGN", "DSDSHTGN")],
        (0.5, 1.3),
        heldout=_files("freedoom", "DSDSHTGN"),
    ),
    _sounds(
        "machine gun",
        "effect",
        "a machine gun; machine gun fire; automatic gunfire",
        "a machine gun fires; a machine gun rattles",
        [_gs(1, 127)],
    ),
    _sounds(
        "explosion",
        "effect",
        "an explosion; a loud explosion; a bomb blast",
        "something explodes; a bomb explodes",
        [
            _gs(3, 127, 64),
            *_files("freedoom", "DSBAREXP", "DSRXPLOD"),
            *_files("openttd-opensfx", "18"),
            *_files("endless-sky", "explosion large", "explosion medium", "explosion nuke", "final explosion large"),
        ],
        (1.1, 2.4),
        heldout=(*_files("freedoom", "DSRXPLOD"), *_files("endless-sky", "explosion large")),
    ),
    _sounds(
        "telephone",
        "effect",
        "a ringing telephone; a telephone ringing; a phone ring",
        "a telephone rings; a phone is ringing",
        [_gm(124), _gs(1, 124)],
        (0.9, 2.4),
    ),
    _sounds(
        "wind chimes",
        "effect",
        "wind chimes; tinkling wind chimes; metal chimes in the breeze",
        "wind chimes tinkle; wind chimes jingle in the breeze",
        [_gs(5, 124, 66)],
    ),
)

RECORDED = (
    _sounds(
        "tabla",
        "recorded",
        "a tabla; Indian tabla drums; tabla hand drums",
        "a tabla is played; a tabla drum is struck",
        list(
            _files(
                "sonic-pi",
                *(f"tabla_{x}" for x in ("ghe1", "ghe2", "ghe3", "ghe4", "ghe5", "ghe8", "na", "na_o")),
                *(f"tabla_{x}" for x in ("tas1", "tas2", "te2", "tun1", "tun2", "ghe7", "tas3", "tun3", "te_m")),
            )
        ),
        (0.18, 0.55),
        heldout=_files("sonic-pi", "tabla_ghe7", "tabla_tas3", "tabla_tun3", "tabla_te_m"),
        mixed=True,
    ),
    _sounds(
        "synth bass",
        "recorded",
        "a synth bass; an electronic bass; a heavy dubstep bass",
        "a synth bass growls; an electronic bass hits",
        list(
            _files(
                "sonic-pi", *(f"bass_{x}_c" for x in ("drop", "hard", "hit", "thick", "woodsy", "trance")), "bass_dnb_f"
            )
        ),
        (0.8, 2.4),
        heldout=_files("sonic-pi", "bass_trance_c"),
    ),
    _sounds(
        "vinyl scratch",
        "recorded",
        "a vinyl record scratch; a DJ scratching a record; turntable scratching",
        "a DJ scratches a record; a vinyl record is scratched",
        list(_files("sonic-pi", "vinyl_scratch", "vinyl_backspin", "vinyl_rewind")),
        (0.35, 1.2),
        heldout=_files("sonic-pi", "vinyl_rewind"),
    ),
    _sounds(
        "glitch",
        "recorded",
        "glitchy electronic noises; a glitching robot; digital glitch sounds",
        "a robot glitches; electronics glitch and stutter",
        list(
            _files(
                "sonic-pi",
                *(f"glitch_perc{i}" for i in range(1, 6)),
                *(f"mehackit_robot{i}" for i in range(1, 6)),
                "glitch_robot1",
                "glitch_robot2",
            )
        ),
        (0.9, 1.8),
        heldout=_files("sonic-pi", "glitch_robot2", "glitch_perc4", "mehackit_robot4"),
        mixed=True,
    ),
    _sounds(
        "cow",
        "recorded",
        "a mooing cow; a cow; a cow's moo",
        "a cow moos; a cow is mooing",
        list(_files("openttd-opensfx", "37")),
        (1.4, 2.2),
    ),
    _sounds(
        "sheep",
        "recorded",
        "a bleating sheep; a sheep; a sheep's bleat",
        "a sheep bleats; a sheep goes baa",
        list(_files("openttd-opensfx", "36")),
        (1.2, 2.0),
    ),
    _sounds(
        "ship horn",
        "recorded",
        "a ship horn; a ship's foghorn; the horn of a ferry",
        "a ship sounds its horn; a ferry blows its horn",
        list(_files("openttd-opensfx", "6", "7")),
        (2.2, 3.4),
    ),
    _sounds(
        "steam whistle",
        "recorded",
        "a steam whistle; a steam train whistle; the whistle of a steam engine",
        "a steam whistle blows; a steam train blows its whistle",
        list(_files("openttd-opensfx", "3", "4", "5")),
        (1.8, 2.6),
        heldout=_files("openttd-opensfx", "5"),
    ),
    _sounds(
        "chainsaw",
        "recorded",
        "a chainsaw; a running chainsaw; a chainsaw motor",
        "a chainsaw roars; someone runs a chainsaw",
        [*_files("openttd-opensfx", "56"), *_files("freedoom", "DSSAWIDL", "DSSAWFUL", "DSSAWUP")],
        heldout=_files("freedoom", "DSSAWUP"),
    ),
    _sounds(
        "jackhammer",
        "recorded",
        "a jackhammer; a pneumatic drill; a jackhammer breaking concrete",
        "a jackhammer hammers; a jackhammer breaks the ground",
        list(_files("openttd-opensfx", "33")),
    ),
    _sounds(
        "car horn",
        "recorded",
        "a car horn; a honking car; a car horn honking",
        "a car honks; a car horn beeps",
        list(_files("openttd-opensfx", "35")),
        (0.7, 1.5),
    ),
    _sounds(
        "monster",
        "recorded",
        "a growling monster; a monster; a monster's growl",
        "a monster growls; a monster snarls",
        list(
            _files(
                "freedoom",
                "DSPOSIT1",
                "DSPOSIT2",
                "DSBGSIT1",
                "DSBGSIT2",
                "DSSGTSIT",
                "DSBRSSIT",
                "DSCACSIT",
                "DSPOSACT",
                "DSBGACT",
                "DSDMACT",
                "DSKNTSIT",
                "DSPESIT",
                "DSPOSIT3",
                "DSSGTATK",
                "DSMANSIT",
            )
        ),
        (1.0, 2.2),
        heldout=_files("freedoom", "DSPOSIT3", "DSSGTATK", "DSMANSIT"),
    ),
    _sounds(
        "laser gun",
        "recorded",
        "a laser gun; laser shots; a science fiction blaster",
        "a laser gun fires; a laser blaster shoots",
        [_gs(2, 127), *_files("endless-sky", "blaster", "pulse", "mod blaster")],
        (0.3, 0.9),
        heldout=_files("endless-sky", "mod blaster"),
    ),
    _sounds(
        "ambient drone",
        "recorded",
        "an ambient drone; a dark humming drone; an eerie drone",
        "an eerie drone hums; a dark drone hums on",
        list(
            _files("sonic-pi", "ambi_drone", "ambi_haunted_hum", "ambi_glass_hum", "ambi_lunar_land", "loop_drone_g_97")
        ),
        heldout=_files("sonic-pi", "ambi_glass_hum"),
    ),
    _sounds(
        "cash register",
        "recorded",
        "a cash register; a shop's cash till; a ringing cash register",
        "a cash register opens; a cash register rings",
        [*_files("openttd-opensfx", "20"), *_files("sonic-pi", "perc_till")],
        (1.5, 2.4),
    ),
)

CLASSES = INSTRUMENTS + EFFECTS + RECORDED
