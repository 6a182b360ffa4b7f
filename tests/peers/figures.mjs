// What the load generators of all peers share: figures as JSON lines under the names of `make bench`, and waiting.

export const TASKS = 10_000;
export const SAMPLES = 200;
export const WARM_UP = 20;
export const CHAINS = 200;
export const STEPS = 10;
export const CHAIN_SAMPLES = 20;
export const FAN = 1_000;
// Clients at once, each with one request under way: as many as ours has.
export const CLIENTS = 16;

const LOOK_INTERVAL_MS = 5;
const PATIENCE_MS = 120_000;

export function figure(name, value) {
  console.log(JSON.stringify({ name, value }));
}

// How long `work` took, in milliseconds.
export async function timed(work) {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}

export async function rate(name, count, work) {
  figure(name, (count * 1000) / (await timed(work)));
}

// The value that `percent` of the samples do not exceed.
export function percentile(samples, percent) {
  const sorted = [...samples].sort((one, other) => one - other);
  return sorted[Math.max(Math.ceil((sorted.length * percent) / 100), 1) - 1];
}

// Calls `job` with 0 to count - 1, each client its next when its last was answered.
export async function clients(count, job) {
  let next = 0;
  const client = async () => {
    while (next < count) await job(next++);
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
}

export async function until(reached) {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await reached())) {
    if (performance.now() > deadline) throw new Error("it took too long");
    await new Promise((resolve) => setTimeout(resolve, LOOK_INTERVAL_MS));
  }
}
