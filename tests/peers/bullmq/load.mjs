// The workloads of `make bench` in BullMQ's words. A chain is a flow of nested children; a flow has no step before its fan-out.
import { FlowProducer, Queue, QueueEvents } from "bullmq";
import * as bench from "./figures.mjs";

const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
const queue = new Queue("bench", { connection });
const flows = new FlowProducer({ connection });
const events = new QueueEvents("bench", { connection });
await events.waitUntilReady();

const job = (name, children) => ({ name, queueName: "bench", data: {}, ...(children && { children }) });
const chain = () => Array.from({ length: bench.STEPS - 1 }).reduce((inner) => job("step", [inner]), job("step"));
const completed = (count) => bench.until(async () => (await queue.getCompletedCount()) >= count);
const forget = () => queue.obliterate({ force: true });

async function finished(added) {
  await added.waitUntilFinished(events, 60_000);
}

await queue.addBulk(Array.from({ length: 500 }, () => job("noop")));
await completed(500);
await forget();

await bench.rate("w1_single_tasks_per_s", bench.TASKS, async () => {
  await bench.clients(bench.TASKS, () => queue.add("noop", {}));
  await completed(bench.TASKS);
});
await forget();

await bench.rate("w1_batch_tasks_per_s", bench.TASKS, async () => {
  for (let added = 0; added < bench.TASKS; added += 1_000) await queue.addBulk(Array.from({ length: 1_000 }, () => job("noop")));
  await completed(bench.TASKS);
});
await forget();

const samples = [];
for (let number = 0; number < bench.WARM_UP + bench.SAMPLES; number++) {
  samples.push(await bench.timed(async () => finished(await queue.add("noop", {}))));
}
bench.figure("one_task_p50_ms", bench.percentile(samples.slice(bench.WARM_UP), 50));
bench.figure("one_task_p99_ms", bench.percentile(samples.slice(bench.WARM_UP), 99));
await forget();

await bench.rate("w2_steps_per_s", bench.CHAINS * bench.STEPS, async () => {
  await bench.clients(bench.CHAINS, () => flows.add(chain()));
  await completed(bench.CHAINS * bench.STEPS);
});
const steps = [];
for (let number = 0; number < bench.CHAIN_SAMPLES; number++) {
  steps.push((await bench.timed(async () => finished((await flows.add(chain())).job))) / bench.STEPS);
}
bench.figure("w2_step_p50_ms", bench.percentile(steps, 50));
await forget();

const middle = Array.from({ length: bench.FAN }, () => job("middle"));
bench.figure("w3_total_ms", await bench.timed(async () => finished((await flows.add(job("last", middle))).job)));
process.exit(0);
