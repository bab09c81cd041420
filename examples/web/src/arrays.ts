/** Arrays on memory that threads do not share, which is what browsers' interfaces take. */

export type Floats = Float32Array<ArrayBuffer>;
export type Bytes = Uint8Array<ArrayBuffer>;
