// The workloads of `make bench` in Restate's words: a task is an invocation whose idempotency key keeps its result, a step of a
// chain is a durable step of one handler.
import http2 from "node:http2";
import * as bench from "./figures.mjs";

const ingress = `http://127.0.0.1:${process.env.INGRESS_PORT}`;
const stamp = `${process.pid}-${Date.now()}`;
let connection;
let keys = 0;

// The ingress asks its clients to connect anew now and then.
function connected() {
  if (!connection) {
    const opened = http2.connect(ingress);
    const lost = () => {
      if (connection === opened) connection = undefined;
    };
    opened.on("goaway", lost).on("close", lost).on("error", lost);
    connection = opened;
  }
  return connection;
}

function call(handler, input) {
  const headers = { ":method": "POST", ":path": `/bench/${handler}`, "content-type": "application/json", "idempotency-key": `${stamp}-${keys++}` };
  return new Promise((resolve, reject) => {
    const request = connected().request(headers);
    let status;
    let text = "";
    request.setEncoding("utf8");
    request.on("response", (answer) => (status = answer[":status"]));
    request.on("data", (part) => (text += part));
    request.on("end", () => (status < 300 ? resolve(JSON.parse(text)) : reject(new Error(`${handler}: ${status} ${text}`))));
    request.on("error", reject);
    request.end(JSON.stringify(input));
  });
}

await bench.clients(500, (number) => call("task", number));

const before = await call("run_so_far", 0);
await bench.rate("w1_single_tasks_per_s", bench.TASKS, async () => {
  await bench.clients(bench.TASKS, (number) => call("task/send", number));
  await bench.until(async () => (await call("run_so_far", 0)) - before >= bench.TASKS);
});

const samples = [];
for (let number = 0; number < bench.WARM_UP + bench.SAMPLES; number++) samples.push(await bench.timed(() => call("task", number)));
bench.figure("one_task_p50_ms", bench.percentile(samples.slice(bench.WARM_UP), 50));
bench.figure("one_task_p99_ms", bench.percentile(samples.slice(bench.WARM_UP), 99));

// All of them at once: whoever calls waits for the end of its chain.
await bench.rate("w2_steps_per_s", bench.CHAINS * bench.STEPS, () =>
  Promise.all(Array.from({ length: bench.CHAINS }, () => call("chain", bench.STEPS))),
);
const steps = [];
for (let number = 0; number < bench.CHAIN_SAMPLES; number++) steps.push((await bench.timed(() => call("chain", bench.STEPS))) / bench.STEPS);
bench.figure("w2_step_p50_ms", bench.percentile(steps, 50));

bench.figure("w3_total_ms", await bench.timed(() => call("fan", bench.FAN)));
process.exit(0);
