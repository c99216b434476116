// llama.cpp through node-llama-cpp, measured as crates/engine/benches/cpu_generate.rs measures this program:
//   node peer.mjs FILE.gguf [NEW_TOKENS]
// run in a folder where `npm install node-llama-cpp@3` was run. One JSON line a measurement.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const installed = createRequire(process.cwd() + "/").resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(installed));
const [file, count = "128"] = process.argv.slice(2);
const threads = Number(process.env.THREADS ?? 2), wanted = Number(count);
const print = measured => console.log(JSON.stringify(measured));

const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const start = performance.now();
const model = await llama.loadModel({modelPath: file, useMmap: true});
print({load_s: (performance.now() - start) / 1e3});

const text = "The quick brown fox jumps over the lazy dog. ".repeat(40);
for (const sequences of [1, 8]) {
  const context = await model.createContext({contextSize: 1024, sequences, threads, batchSize: 512});
  // The prompt first, then the new tokens, each in one batch with those of the other sequences.
  const begun = performance.now();
  const all = [...Array(sequences).keys()].map(number => ({
    sequence: context.getSequence(), prompt: model.tokenize(`${number} ${text}`), made: 0,
  }));
  await Promise.all(all.map(({sequence, prompt}) => sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(0, -1))));
  const filled = performance.now();
  await Promise.all(all.map(async one => {
    for await (const _ of one.sequence.evaluate(one.prompt.slice(-1), {temperature: 0, yieldEogToken: true}))
      if (++one.made >= wanted) break;
  }));
  const end = performance.now();
  const prompts = all.reduce((sum, one) => sum + one.prompt.length, 0), made = all.reduce((sum, one) => sum + one.made, 0);
  print({
    sequences, prompt_tokens: prompts, prompt_tok_s: prompts / ((filled - begun) / 1e3), new_tokens: made,
    decode_tok_s: made / ((end - filled) / 1e3), whole_new_tok_s: made / ((end - begun) / 1e3),
  });
  await context.dispose();
}
process.exit(0);
