/** What the fuzzers report. */

/** One thing that is not as it must be. `replay`: the command that does it again; `bytes`: what was sent, escaped. */
export type Finding = { kind: string; what: string; replay?: string; bytes?: string };

/** Told what is going on, now and then. */
export type Progress = (text: string) => void;
