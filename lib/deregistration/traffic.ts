import { sleep } from '../clock.js'
import { type Waiting } from './waiting.js'
import { judge } from './silence.js'

/** How often a request in flight is looked at again: that its response has begun comes with no event. */
const RECHECK_MS = 500

/** Until the silence is evidence. The judgement is in silence.ts; this walks it. */
export async function traffic (waiting: Waiting, signal: AbortSignal): Promise<string> {
  const { clock, countdown, requests, timeline, config } = waiting
  const startedAt = countdown.startedAt!
  const floorMs = config.quiet * 1000
  if (requests.lastArrivalAt === undefined) {
    if (!requests.isServing) return 'nothing is served here but the health routes'
    if (!requests.hasBeenProbed && config.platform === 'elsewhere') return 'neither a request nor a probe has ever come, and this is not ECS'
  }
  while (!signal.aborted) {
    const inFlight = requests.unansweredTraffic
    const verdict = judge({
      nowMs: clock.now(),
      signalMs: startedAt,
      lastArrivalMs: requests.lastArrivalAt,
      lastEndMs: requests.lastEndAt,
      usualMs: requests.usualPause(floorMs),
      floorMs,
      drainEndMs: startedAt + timeline.drainEnd,
      drainLimitMs: startedAt + timeline.drainLimit,
      inFlight
    })
    if (verdict.letGo) return verdict.reason
    const ms = inFlight > 0 ? Math.min(verdict.checkInMs, RECHECK_MS) : verdict.checkInMs
    await sleep(clock, ms, signal, requests.nextEnd())
  }
  return 'draining was ended'
}
