// Lints workflows of GitHub Actions: reads texts by name, writes the complaints by name.
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { createLinter } = await import(pathToFileURL(join(process.argv[2], "node.mjs")));
const lint = await createLinter();
const texts = JSON.parse(readFileSync(0, "utf8"));
const found = Object.entries(texts).map(([name, text]) => [name, lint(text, name).map((one) => one.message)]);
process.stdout.write(JSON.stringify(Object.fromEntries(found)), () => process.exit(0));
