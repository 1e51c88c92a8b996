import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import { text } from "./src/text.ts";

/** Puts the words into the page. */
const words: Plugin = {
  name: "words",
  transformIndexHtml: {
    order: "pre",
    handler: (html) =>
      html.replace(/{{(\w+)}}/g, (_, key: string) => {
        const words = text[key as keyof typeof text];
        if (typeof words !== "string") throw new Error(`src/text.ts has no words "${key}"`);
        return words;
      }),
  },
};

/** What WebGPU needs: twice as large as the rest, and seldom asked for. */
const WEBGPU = /webgpu|asyncify/;

/** Writes the service worker, which keeps the files of the build. */
const offline: Plugin = {
  name: "offline",
  apply: "build",
  enforce: "post",
  generateBundle(_, bundle) {
    const hash = createHash("sha256");
    for (const file of Object.values(bundle)) hash.update(file.type === "chunk" ? file.code : file.source);
    const names = Object.keys(bundle).filter((name) => !WEBGPU.test(name));
    const files = ["./", ...names.map((name) => `./${name}`)];
    const source = readFileSync(new URL("./src/sw.js", import.meta.url), "utf8")
      .replace("__FILES__", JSON.stringify(files))
      .replace("__VERSION__", hash.digest("hex").slice(0, 12));
    this.emitFile({ type: "asset", fileName: "sw.js", source });
  },
};

export default defineConfig({
  base: "./",
  plugins: [words, offline],
  // Into the package: `egeunet serve` gives the page at `/`, and wheels contain it.
  build: { outDir: "../src/egeunet/serve/page", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
});
