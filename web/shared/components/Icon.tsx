// Line icons on a 20 by 20 grid, drawn for these pages. Decisions have shapes of their own: circle, triangle, diamond.
const PATHS = {
  normal: "M10 2.5a7.5 7.5 0 1 0 0 15a7.5 7.5 0 0 0 0-15ZM6.5 10.2l2.4 2.4 4.6-5",
  anomalous: "M10 2.8 18 16.7H2ZM10 7.8v4.4M10 14.3v.3",
  unsure: "M10 1.6 18.4 10 10 18.4 1.6 10ZM7.9 8.1a2.1 2.1 0 1 1 3 1.9c-.6.3-.9.7-.9 1.3M10 13.6v.2",
  none: "M4 10h.01M10 10h.01M16 10h.01",
  battery: "M2.5 6.5h12.5v7H2.5ZM17.5 9v2",
  signal: "M3 16v-3M7.7 16v-6M12.4 16V7M17 16V4",
  clock: "M10 2.5a7.5 7.5 0 1 0 0 15a7.5 7.5 0 0 0 0-15ZM10 6v4.2l2.8 1.8",
  worn: "M7 7.2a4 4 0 1 1 6 0v5.6a4 4 0 1 1-6 0ZM7.4 6.8 8 2.5h4l.6 4.3M7.4 13.2 8 17.5h4l.6-4.3",
  mute: "M4 8v4h2.5L10 15V5L6.5 8ZM13.5 8l4 4M17.5 8l-4 4",
  bell: "M5 13.5V9a5 5 0 0 1 10 0v4.5l1.2 1.5H3.8ZM8.5 17.3h3",
  sync: "M3.5 8.5a6.7 6.7 0 0 1 12-2.2M16 3v3.5h-3.5M16.5 11.5a6.7 6.7 0 0 1-12 2.2M4 17v-3.5h3.5",
  offline: "M3 3l14 14M6 6.8C4 7.3 2.6 8.6 2.6 10.9c0 2 1.6 3.6 3.6 3.6h7.6M9 5.4a4.6 4.6 0 0 1 5.3 3.9c1.8.2 3.1 1.5 3.1 3",
  stop: "M5.5 5.5h9v9h-9Z",
  person: "M10 9.5a3.2 3.2 0 1 0 0-6.4a3.2 3.2 0 0 0 0 6.4ZM3.8 17c.5-3.6 2.9-5.3 6.2-5.3s5.7 1.7 6.2 5.3",
  back: "M12.5 4 6.5 10l6 6",
  forward: "M7.5 4l6 6-6 6",
  check: "M4 10.5l4 4 8-9",
  cross: "M5 5l10 10M15 5 5 15",
  plus: "M10 4v12M4 10h12",
  tap: "M8 9V4.2a1.5 1.5 0 0 1 3 0V9l4.2 1a1.6 1.6 0 0 1 1.2 1.8L15.6 17H8.8L5 11.8a1.3 1.3 0 0 1 2-1.6l1 1M5 5.2a4.6 4.6 0 0 1 9 0",
  learn: "M3 15.5 7.5 10l3 2.5L17 5M12.5 5H17v4.5",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 0 0 0-7ZM10 1.8v1.6M10 16.6v1.6M1.8 10h1.6M16.6 10h1.6M4.2 4.2l1.1 1.1M14.7 14.7l1.1 1.1M4.2 15.8l1.1-1.1M14.7 5.3l1.1-1.1",
  moon: "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7Z",
  download: "M10 3v9M6 8.5l4 4 4-4M3.5 16.5h13",
  filter: "M3 4.5h14l-5.5 6.5v5l-3-1.5V11Z",
  comment: "M3 4h14v9.5H9L5.5 17v-3.5H3Z",
  copy: "M7.5 7.5h9v9h-9ZM4 12.5H3.5v-9h9V4",
  info: "M10 2.5a7.5 7.5 0 1 0 0 15a7.5 7.5 0 0 0 0-15ZM10 9v5M10 6v.2",
} as const;

export type IconName = keyof typeof PATHS;

/** An icon is decoration: the word beside it says the same. */
export function Icon({ name, size = 20 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path
        d={PATHS[name]}
        fill="none"
        stroke="currentColor"
        stroke-width={name === "none" ? 3 : 1.7}
        stroke-linecap="round"
        stroke-linejoin="round"
      />
    </svg>
  );
}
