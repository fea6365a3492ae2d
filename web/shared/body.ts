// Where on the body a sensor sits, from its name: `wrist_left`, `left_ankle`, `shank_r`, `lower_back`.
export type Side = "left" | "right" | null;
export type Place = "head" | "chest" | "back" | "upper_arm" | "wrist" | "thigh" | "shank" | "ankle" | "foot";

export interface Part {
  readonly place: Place;
  readonly side: Side;
}

const PLACES: readonly (readonly [RegExp, Place])[] = [
  [/wrist|forearm|hand|watch/, "wrist"],
  [/arm|elbow|shoulder/, "upper_arm"],
  [/ankle/, "ankle"],
  [/foot|feet|toe|heel|insole|shoe/, "foot"],
  [/shank|shin|calf|tibia/, "shank"],
  [/thigh|femur|knee/, "thigh"],
  [/chest|sternum|thorax/, "chest"],
  [/back|lumbar|sacrum|pelvis|waist|trunk|hip|torso|spine|belt/, "back"],
  [/head|ear|brow/, "head"],
];
const SINGLE: readonly Place[] = ["head", "chest", "back"];

/** The part of the body a sensor's name means, or null where it cannot be told. */
export function partOf(sensor: string): Part | null {
  const name = sensor.toLowerCase();
  const place = PLACES.find(([pattern]) => pattern.test(name))?.[1];
  if (!place) return null;
  const words = name.split(/[^a-z0-9]+/);
  const side: Side = words.some((w) => w === "left" || w === "l") ? "left" : words.some((w) => w === "right" || w === "r") ? "right" : null;
  if (SINGLE.includes(place)) return { place, side: null };
  return side ? { place, side } : null;
}

/** Position in the figure, seen from the front: the person's right is on the viewer's left. */
export function positionOf({ place, side }: Part): readonly [number, number] {
  const [fromMiddle, y] = {
    head: [0, 34],
    chest: [0, 112],
    back: [0, 186],
    upper_arm: [46, 128],
    wrist: [64, 208],
    thigh: [19, 262],
    shank: [21, 326],
    ankle: [22, 366],
    foot: [29, 389],
  }[place] as [number, number];
  return [100 + (side === "left" ? fromMiddle : side === "right" ? -fromMiddle : 0), y];
}
