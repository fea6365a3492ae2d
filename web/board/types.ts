// What the board says of itself (docs/board-api.md).
import type { Words } from "@shared/i18n";
import type { Belief, Decision } from "@shared/types";

export interface Session {
  readonly needs_token: boolean;
  readonly authorised: boolean;
  readonly gateway: string | null;
  readonly version: string;
}

export interface SensorModel {
  readonly name: string;
  readonly place: Words;
  readonly channels: readonly { readonly name: string; readonly unit: string }[];
}

export interface Model {
  readonly name: string;
  readonly digest: string;
  readonly precision: string;
  readonly rate_hz: number;
  readonly hop: number;
  readonly block: number;
  readonly sensors: readonly SensorModel[];
}

export interface Reason {
  readonly code: string;
  readonly sensor: string | null;
  readonly text: Words;
}

export interface Sensor {
  readonly name: string | null;
  readonly place: Words | null;
  readonly used: boolean;
  readonly where: string | null;
  readonly serial: string | null;
  readonly state: "streaming" | "silent" | "lost" | "none";
  readonly battery: number | null;
  readonly loss: number | null;
  readonly clock_ms: number | null;
  readonly worn: boolean | null;
  readonly rate_hz: number | null;
  readonly reasons: readonly string[];
}

export interface Enrolment {
  readonly state: "collecting" | "fitting" | "done" | "failed";
  readonly seconds: number;
  readonly recorded_s: number;
  readonly needed_s: number;
  readonly text: Words;
  readonly audit: { readonly verdict: string; readonly text: Words; readonly reasons: readonly Words[] } | null;
}

export interface PoseSensor {
  readonly sensor: string;
  readonly place: Words;
  readonly still_s: number;
  readonly why: string;
  readonly text: Words;
  readonly angle_deg: number | null;
  readonly error_deg: number | null;
}

export interface Pose {
  readonly state: "ready" | "hold" | "stuck" | "done" | "failed";
  readonly purpose: "align" | "enrol";
  readonly number: number;
  readonly of: number;
  readonly text: Words;
  readonly sensors: readonly PoseSensor[];
  readonly pose?: string;
  readonly name?: Words;
  readonly instruction?: Words;
  readonly seconds_left?: number;
  readonly hold_s?: number;
}

export interface Person {
  readonly subject: string;
  readonly decision: Decision;
  readonly utc_ns: number | null;
  readonly score: number | null;
  readonly p_value: number | null;
  readonly band: { readonly median: number; readonly high: number };
  readonly belief: Belief | null;
  readonly reasons: readonly Reason[];
  readonly sentence: Words | null;
  readonly contributions: readonly { readonly sensor: string; readonly channel: string | null; readonly share: number }[];
  readonly calibration: {
    readonly basis: "cohort" | "personal";
    readonly valid: boolean | null;
    readonly learned_s: number | null;
    readonly needed_s: number | null;
    readonly age_s: number | null;
    readonly text: Words;
  };
  readonly promise: Words | null;
  readonly episode: { readonly start_utc_ns: number } | null;
  readonly muted_until_utc_ns: number | null;
  readonly enrolment: Enrolment | null;
  readonly pose: Pose | null;
  readonly can_pose: boolean;
  readonly sensors: readonly Sensor[];
  readonly today: { readonly n_episodes: number; readonly share: Belief | null };
}

export interface Outbox {
  readonly waiting_episodes: number;
  readonly waiting_raw: number;
  readonly quarantined: number;
  readonly oldest_utc_ns: number | null;
  readonly last_sync_utc_ns: number | null;
  readonly state: "ok" | "waiting" | "off";
  readonly error: string;
}

export interface Task {
  readonly name: string;
  readonly state: "running" | "waiting" | "ended";
  readonly restarts: number;
  readonly error: string;
}

export interface Note {
  readonly utc_ns: number;
  readonly text: string;
}

export interface Spare {
  readonly where: string;
  readonly serial: string;
  readonly sensor: string | null;
  readonly state: Sensor["state"];
  readonly battery: number | null;
}

export interface Identify {
  readonly state: "waiting" | "found" | "failed" | "cancelled";
  readonly subject: string;
  readonly sensor: string | null;
  readonly seconds_left: number | null;
  readonly where: string | null;
  readonly serial: string;
  readonly text: Words;
}

export interface BoardState {
  readonly site: string;
  readonly gateway: string;
  readonly version: string;
  readonly utc_ns: number;
  readonly model: Model;
  readonly people: readonly Person[];
  readonly outbox: Outbox;
  readonly tasks: readonly Task[];
  readonly notes: readonly Note[];
  readonly spare: readonly Spare[];
  readonly identify: Identify | null;
  readonly features: { readonly enrol: boolean; readonly assign: boolean; readonly mute: boolean; readonly stop: boolean };
}

export interface StateEvent extends Partial<BoardState> {
  readonly at_utc_ns?: number;
  /** Everybody, in their order: whoever is not in it has left. */
  readonly subjects?: readonly string[];
}

export interface SignalsEvent {
  readonly subject: string;
  readonly sensor: string;
  readonly channels: readonly string[];
  readonly rate_hz: number;
  readonly t_utc_ns: readonly number[];
  readonly values: readonly (readonly (number | null)[])[];
}

export interface VerdictEvent {
  readonly subject: string;
  readonly utc_ns: number;
  readonly decision: Decision;
  readonly score: number;
  readonly p_value: number;
  readonly belief: Belief;
}

export interface History {
  readonly subject: string;
  readonly utc_ns: readonly number[];
  readonly decision: readonly Decision[];
  readonly score: readonly number[];
}

export interface Episode {
  readonly id: string;
  readonly subject: string;
  readonly start_utc_ns: number;
  readonly end_utc_ns: number | null;
  readonly ended: string;
  readonly peak_score: number;
  readonly sentence: Words | null;
  readonly sensor: string | null;
  readonly sent: boolean;
  readonly change: string | null;
}
