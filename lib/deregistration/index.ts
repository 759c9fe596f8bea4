import { type Config } from '../config.js'
import { delay } from './delay.js'
import { traffic } from './traffic.js'
import { type Waiting } from './waiting.js'

/**
 * Has the load balancer let go? Resolves with the reason when closing may begin, and soon after `signal` is aborted.
 * Never rejects.
 */
export async function letGo (waiting: Waiting, signal: AbortSignal): Promise<string> {
  const { deregistration } = waiting.config
  if (typeof deregistration === 'function') return await ask(deregistration, waiting, signal)
  switch (deregistration) {
    case 'traffic': return await traffic(waiting, signal)
    case 'delay': return await delay(waiting, signal)
    case 'none': return 'deregistration is none: nothing is waited for'
  }
}

/** The user's own strategy. It may be wrong, but it cannot lose requests by failing. */
async function ask (
  strategy: Extract<Config['deregistration'], Function>, waiting: Waiting, signal: AbortSignal
): Promise<string> {
  const { clock, countdown, log, reason, requests, timeline } = waiting
  try {
    return String(await strategy({
      reason,
      drainEndMs: timeline.drainEnd,
      drainLimitMs: timeline.drainLimit,
      elapsedMs: () => countdown.elapsed(),
      silenceMs: () => requests.lastArrivalAt === undefined ? undefined : clock.now() - requests.lastArrivalAt,
      inFlight: () => requests.unansweredTraffic
    }, signal))
  } catch (err) {
    log.warn({ err }, 'the deregistration function failed, so the strategy "traffic" takes over')
    return await traffic(waiting, signal)
  }
}
