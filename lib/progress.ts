import type { FastifyBaseLogger } from 'fastify'
import { type Clock } from './clock.js'
import { type Countdown } from './countdown.js'
import { type Holders } from './holders.js'
import { type Lifecycle } from './lifecycle.js'
import { inSeconds, listHolders } from './report.js'
import { type Timeline } from './timeline.js'

export interface ProgressParts {
  readonly clock: Clock
  readonly countdown: Countdown
  readonly holders: Holders
  readonly lifecycle: Lifecycle
  readonly log: FastifyBaseLogger
  readonly timeline: Timeline
}

/** A pace for a person who looks at the log and waits. */
const EVERY_MS = 5000

/** Says every few seconds what a stop is waiting for. Returns how to end that. */
export function logProgress (parts: ProgressParts, reason: string): () => void {
  let cancel = parts.clock.after(EVERY_MS, tell)
  return () => { cancel() }

  function tell () {
    const { clock, countdown, holders, lifecycle: { state }, log, timeline } = parts
    const isDraining = state === 'draining'
    const current = listHolders(holders.current(isDraining))
    const others = current === '' ? [] : [current]
    const waitsFor = isDraining ? ['the load balancer', ...others].join(', ') : others[0] ?? 'fastify.close()'
    const drainEnds = isDraining ? `draining ends in ${inSeconds(timeline.drainLimit - countdown.elapsed())} at the latest, ` : ''
    log.info(`${state}, ${inSeconds(countdown.elapsed())} after ${reason}: waiting for ${waitsFor}; ${drainEnds}the deadline is in ${inSeconds(countdown.remaining())}`)
    cancel = clock.after(EVERY_MS, tell)
  }
}
