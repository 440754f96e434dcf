// Reads an AsyncAPI document from stdin and prints what AsyncAPI's own parser makes of it, as JSON.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
const operations = document?.operations().all() ?? [];
console.log(
  JSON.stringify({
    diagnostics: diagnostics.map(({ severity, code, path, message }) => ({ severity, code, path: path.join("."), message })),
    version: document?.version() ?? null,
    channels: (document?.channels().all() ?? []).map((channel) => channel.id()).sort(),
    operations: Object.fromEntries(
      operations.map((operation) => [
        operation.id(),
        { action: operation.action(), messages: operation.messages().all().map((message) => message.name()).sort() },
      ]),
    ),
  }),
);
