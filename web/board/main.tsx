import { render } from "preact";
import "@shared/base.css";
import { Board } from "./Board";

const root = document.getElementById("app");
if (root) render(<Board />, root);
