// The peer's executor: as many slots as ours has free of sleepers.
import { Worker } from "bullmq";

const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
const worker = new Worker("bench", async () => null, { connection, concurrency: 100 });
await worker.waitUntilReady();
console.log("ready");
