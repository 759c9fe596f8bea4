import type { FastifyBaseLogger } from 'fastify'
import { type Clock, limited, sleep } from './clock.js'
import { type Config } from './config.js'
import { FARGATE_ERR_TIME_LIMIT } from './errors.js'

const FIRST_RETRY_MS = 500
const LONGEST_RETRY_MS = 10_000

/** Resolves when every check has succeeded once, or `signal` is aborted. Checks run side by side and are retried. */
export async function passStartup (
  checks: Config['startup'], clock: Clock, log: FastifyBaseLogger, signal: AbortSignal
): Promise<void> {
  await Promise.all(checks.map(async ({ name, check, timeout }) => {
    let retryMs = FIRST_RETRY_MS
    while (!signal.aborted) {
      try {
        await limited(clock, timeout, check, () => new FARGATE_ERR_TIME_LIMIT(`startup check ${name}`, timeout), signal)
        return
      } catch (err) {
        if (signal.aborted) return
        log.warn({ err, check: name, retryMs }, `startup check ${name} failed, so the service is not ready yet; next attempt in ${retryMs / 1000} s`)
      }
      await sleep(clock, retryMs, signal)
      retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS)
    }
  }))
}
