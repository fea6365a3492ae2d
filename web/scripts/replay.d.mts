import type { Plugin } from "vite";

export function replay(mode: string): Plugin;
