// What both servers call things.
export type Decision = "normal" | "anomalous" | "unsure" | "none";

export interface Belief {
  readonly normal: number;
  readonly unsure: number;
  readonly anomalous: number;
}
