import { Brand, Shell } from "@shared/components/Shell";

export function Desk() {
  return (
    <Shell brand={<Brand name="kinedge" />}>
      <h1>kinedge</h1>
    </Shell>
  );
}
