// What the collector answers, as far as the desk uses it (`/openapi.json` says all of it).
import type { Words } from "@shared/i18n";

export type Status = "new" | "confirmed" | "dismissed";
export type EpisodeDecision = "anomalous" | "unsure";

export interface Session {
  readonly authorised: boolean;
  readonly name: string;
  readonly may_read: boolean;
  readonly may_review: boolean;
  readonly by_token: boolean;
  readonly by_provider: boolean;
  readonly version: string;
}

export interface Line {
  readonly arrival: number;
  readonly id: string;
  readonly site: string;
  readonly gateway: string;
  readonly subject: string;
  readonly sequence: number;
  readonly start_utc_ns: number;
  readonly end_utc_ns: number;
  readonly received_utc_ns: number;
  readonly decision: EpisodeDecision;
  readonly status: Status;
  readonly has_raw: boolean;
  readonly kind: "moment" | "change";
  readonly ended: string;
  readonly sentence: Words;
  readonly peak_score: number;
  readonly unsure_share: number;
  readonly sensors: readonly string[];
  readonly top_sensor: string | null;
  readonly abstentions: readonly string[];
}

export interface Page {
  readonly episodes: readonly Line[];
  readonly next_cursor: string | null;
}

export interface Person {
  readonly subject: string;
  readonly site: string;
  readonly gateway: string;
  readonly n_episodes: number;
  readonly n_new: number;
  readonly first_utc_ns: number | null;
  readonly last_utc_ns: number | null;
  readonly last_day: string | null;
}

export interface TrailPoint {
  readonly wall_time_utc_ns: number;
  readonly decision: "normal" | "anomalous" | "unsure";
  readonly score: number;
  readonly p_value: number;
  readonly belief_normal: number;
  readonly belief_anomalous: number;
  readonly reasons: readonly string[];
  readonly why?: readonly (readonly [code: string, sensor: string | null, measured: number | null])[];
}

export interface SlowChange {
  readonly kind: string;
  readonly measure: string;
  readonly unit: string;
  readonly value: number;
  readonly low: number | null;
  readonly high: number | null;
  readonly expected: number;
  readonly spread: number;
  readonly shortfall: number;
  readonly threshold: number;
  readonly worn_h: number;
  readonly first_day: string;
  readonly last_day: string;
}

/** A reason of one block; `weight` in nats of certainty. */
export interface Weighed {
  readonly code: string;
  readonly sensor?: string | null;
  readonly channel?: string;
  readonly weight: number;
  readonly truth: number;
  readonly measured?: number;
}

/** The numbers behind an abstention; an older gateway sends none. */
export interface Figures {
  readonly wall_time_utc_ns: number;
  readonly truth: number;
  readonly score: number;
  readonly p_value: number;
  readonly belief_normal: number;
  readonly belief_anomalous: number;
  readonly needed_normal?: number;
  readonly needed_anomalous?: number;
  readonly needed_p_value?: number;
  readonly reasons: readonly Weighed[];
  readonly sensors: readonly {
    readonly sensor: string;
    readonly score?: number;
    readonly reliability: number;
    readonly missing: number;
    readonly share: number;
  }[];
  readonly alarm?: {
    readonly valid: boolean;
    readonly evidence: number;
    readonly learned: number;
    readonly unlike: number;
    readonly shift: number;
  };
}

export interface Abstention {
  readonly code: string;
  readonly sensor: string | null;
  readonly share: number;
  readonly text: Words;
  readonly figures?: Figures;
}

/** The numbers of a promise about false episodes. */
export interface Promised {
  readonly kind: string;
  readonly hours_per_false_episode: number;
  readonly n_subjects: number;
  readonly audit: string;
}

export interface Envelope {
  readonly id: string;
  readonly subject: string;
  readonly sensors: readonly string[];
  readonly start_utc_ns: number;
  readonly end_utc_ns: number;
  readonly ended: string;
  readonly peak_score: number;
  readonly min_p_value: number;
  readonly unsure_share: number;
  readonly contributions: readonly { readonly sensor: string; readonly channel: string | null; readonly share: number }[];
  readonly trail: readonly TrailPoint[];
  readonly raw: { readonly n_bytes: number; readonly n_samples: number; readonly rate_hz: number; readonly sha256: string } | null;
  readonly model_digest: string;
  readonly config_digest: string;
  readonly kinedge_version: string;
  readonly enrolment_digest?: string | null;
  readonly promise?: string | null;
  readonly promised?: Promised | null;
  readonly unsigned?: readonly string[];
  readonly explanation?: { readonly smallest_set: readonly string[] } | null;
  readonly abstentions?: readonly Abstention[];
  readonly change?: SlowChange | null;
}

export interface Review {
  readonly n: number;
  readonly utc_ns: number;
  readonly reviewer: string;
  readonly action: "confirm" | "dismiss" | "reopen" | "comment";
  readonly comment: string;
}

export interface EpisodeAnswer {
  readonly line: Line;
  readonly envelope: Envelope;
  readonly reviews: readonly Review[];
  readonly earlier: string | null;
  readonly later: string | null;
}

export interface SeriesChannel {
  readonly sensor: string;
  readonly channel: string;
  readonly unit: string;
  readonly low: readonly (number | null)[];
  readonly high: readonly (number | null)[];
  readonly missing: readonly number[];
}

export interface Series {
  readonly start_utc_ns: number;
  readonly rate_hz: number;
  readonly n_samples: number;
  readonly samples_per_point: number;
  readonly channels: readonly SeriesChannel[];
}

export interface TimelineDay {
  readonly subject: string;
  readonly day: string;
  readonly anomalous: number;
  readonly unsure: number;
  readonly new: number;
  readonly confirmed: number;
  readonly dismissed: number;
}

export interface Measure {
  readonly value: number | null;
  readonly low: number | null;
  readonly high: number | null;
  readonly unit: string;
}

export interface Trend {
  readonly state: "learning" | "unsure" | "as_usual" | "lower";
  readonly expected: number | null;
  readonly spread: number | null;
  readonly short: number;
}

export interface MeasuredDay {
  readonly id: string;
  readonly subject: string;
  readonly gateway: string;
  readonly part: "arm" | "gait";
  readonly day: string;
  readonly complete: boolean;
  readonly worn_s: number;
  readonly unworn_s: number;
  readonly missing_s: number;
  readonly walking_s: number;
  readonly measures: Readonly<Record<string, Measure>>;
  readonly watched: { readonly state: string; readonly trends: Readonly<Record<string, Trend>> } | null;
}
