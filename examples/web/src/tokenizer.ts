/** BERT's tokenizer, read from a `tokenizer.json` of Hugging Face's tokenizers. */

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b820}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const WORD_OR_PUNCTUATION = /[!-/:-@[-`{-~\p{P}]|[^\p{White_Space}!-/:-@[-`{-~\p{P}]+/gu;

export interface TokenizerFile {
  normalizer: { type: string; lowercase?: boolean; strip_accents?: boolean | null };
  model: {
    type: string;
    vocab: Record<string, number>;
    unk_token: string;
    continuing_subword_prefix: string;
    max_input_chars_per_word: number;
  };
  added_tokens: { id: number; content: string }[];
}

export interface Tokens {
  ids: number[];
  /** Whether the text has more tokens than the text encoder reads, so that its end is missing. */
  isCut: boolean;
}

/** WordPiece tokens between [CLS] and [SEP]. */
export class Tokenizer {
  private readonly added: Map<string, number>;
  private readonly addedPattern: RegExp;
  private readonly vocab: Map<string, number>;
  private readonly file: TokenizerFile;
  private readonly maxLength: number;

  /**
   * @param file Content of `tokenizer.json`.
   * @param maxLength Most tokens of a text, [CLS] and [SEP] included.
   */
  constructor(file: TokenizerFile, maxLength: number) {
    if (file.model?.type !== "WordPiece" || file.normalizer?.type !== "BertNormalizer") {
      throw new Error("The model's tokenizer is not BERT's, which is the one that this page reads.");
    }
    this.file = file;
    this.maxLength = maxLength;
    this.vocab = new Map(Object.entries(file.model.vocab));
    this.added = new Map(file.added_tokens.map((token) => [token.content, token.id]));
    const names = [...this.added.keys()].map((name) => name.replace(/[[\]\\^$.*+?(){}|]/g, "\\$&"));
    this.addedPattern = new RegExp(`(${names.join("|")})`, "u");
  }

  encode(text: string): Tokens {
    // An added token counts as such wherever it stands in the text.
    const ids = text.split(this.addedPattern).flatMap((part) => {
      const id = this.added.get(part);
      return id === undefined ? (this.normalize(part).match(WORD_OR_PUNCTUATION) ?? []).flatMap((word) => this.split(word)) : [id];
    });
    const room = this.maxLength - 2;
    const [first, last] = ["[CLS]", "[SEP]"].map((name) => this.vocab.get(name)!);
    return { ids: [first, ...ids.slice(0, room), last], isCut: ids.length > room };
  }

  private normalize(text: string): string {
    let clean = text.replace(/[\t\n\r]/g, " ").replace(/[\ufffd\p{Cc}\p{Cf}\p{Co}]/gu, "");
    clean = clean.replace(CHINESE, " $& ");
    const { lowercase, strip_accents } = this.file.normalizer;
    if (strip_accents ?? lowercase) clean = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
    // One character at a time: the lower case of a whole word depends on where a sigma stands.
    return lowercase ? Array.from(clean, (character) => character.toLowerCase()).join("") : clean;
  }

  /** The longest known pieces of a word, from its start; one unknown token if a part of it is not known. */
  private split(word: string): number[] {
    const { unk_token, continuing_subword_prefix: prefix, max_input_chars_per_word: longest } = this.file.model;
    const unknown = [this.vocab.get(unk_token)!];
    const characters = Array.from(word);
    if (characters.length > longest) return unknown;
    const ids: number[] = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id: number | undefined;
      for (; end > start; end--) {
        id = this.vocab.get((start ? prefix : "") + characters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return unknown;
      ids.push(id);
      start = end;
    }
    return ids;
  }
}
