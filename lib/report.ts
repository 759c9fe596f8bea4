import { channel } from 'node:diagnostics_channel'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Holder, ReportMessage, ShutdownReport, StateMessage, StopError } from '../types/index.js'
import { type Timeline } from './timeline.js'

const stateChannel = channel('fastify-fargate.state')
const reportChannel = channel('fastify-fargate.report')

export function publishState (message: StateMessage): void {
  stateChannel.publish(message)
}

/** The last line of the log, and the same record on the channel. */
export function publishReport (fastify: FastifyInstance, log: FastifyBaseLogger, report: ShutdownReport): void {
  reportChannel.publish({ fastify, report } satisfies ReportMessage)
  if (report.exitCode === 1) log.error({ report }, summary(report))
  else log.info({ report }, summary(report))
}

/** What a stop knows of itself at its end. Offsets are milliseconds from its beginning. */
export interface Facts {
  readonly reason: string
  readonly drainEnded: string
  readonly isDrainedBySilence: boolean
  readonly drainedAfterMs: number
  readonly finishedAfterMs: number
  readonly totalMs: number
  readonly inFlightAtSignal: number
  readonly servedWhileDraining: number
  /** Negative or `undefined`: none came after the signal. */
  readonly lastAfterMs: number | undefined
  readonly cut: Holder[]
  readonly cutCount: number
  readonly errors: StopError[]
  readonly timeline: Timeline
}

export function makeReport (facts: Facts): ShutdownReport {
  const { cut, cutCount, drainedAfterMs, drainEnded, errors, finishedAfterMs, lastAfterMs = -1, timeline, totalMs } = facts
  return {
    reason: facts.reason,
    exitCode: cutCount > 0 || errors.length > 0 ? 1 : 0,
    order: lastAfterMs > 0 ? 'signal-first' : facts.isDrainedBySilence ? 'deregistered-first' : 'unknown',
    drainEnded,
    durations: {
      drainingMs: Math.round(drainedAfterMs),
      closingMs: Math.round(finishedAfterMs - drainedAfterMs),
      closeMs: Math.round(totalMs - finishedAfterMs),
      totalMs: Math.round(totalMs)
    },
    requests: {
      inFlightAtSignal: facts.inFlightAtSignal,
      servedWhileDraining: facts.servedWhileDraining,
      lastAfterMs: lastAfterMs > 0 ? Math.round(lastAfterMs) : null
    },
    // What comes later is no part of it.
    cut: [...cut],
    cutCount,
    errors: [...errors],
    stopTimeoutMs: timeline.stopTimeout,
    deadlineMs: timeline.deadline
  }
}

/** One sentence for a person at three in the morning. */
export function summary ({ reason, exitCode, durations, requests, cut, cutCount, errors }: ShutdownReport): string {
  const lost = [
    ...(cutCount > 0 ? [`cut: ${listHolders(cut)}${cutCount > cut.length ? `, ${cutCount} in all` : ''}`] : []),
    ...(errors.length > 0 ? [`failed: ${errors.map(({ where, message }) => `${where} (${message})`).join(', ')}`] : [])
  ]
  const served = `served ${requests.servedWhileDraining} requests after it`
  return exitCode === 0
    ? `stopped ${inSeconds(durations.totalMs)} after ${reason}, ${served}, nothing was lost`
    : `stopped ${inSeconds(durations.totalMs)} after ${reason}, ${served}, exit code 1: ${lost.join('; ')}`
}

const MOST_NAMED = 10

/** `GET /reports/:id (req-7, 12.3 s), 1000 of GET /events (up to 3600 s)` */
export function listHolders (holders: readonly Holder[]): string {
  const groups = new Map<string, Holder[]>()
  for (const holder of holders) {
    const group = groups.get(holder.name)
    if (group === undefined) groups.set(holder.name, [holder])
    else group.push(holder)
  }
  const named = [...groups].slice(0, MOST_NAMED).map(([name, group]) => {
    const [{ requestId, ageMs }] = group as [Holder]
    if (group.length > 1) return `${group.length} of ${name} (up to ${inSeconds(Math.max(...group.map((holder) => holder.ageMs)))})`
    return `${name} (${requestId === undefined ? '' : `${requestId}, `}${inSeconds(ageMs)})`
  })
  return groups.size > MOST_NAMED ? `${named.join(', ')} and ${groups.size - MOST_NAMED} more` : named.join(', ')
}

export function inSeconds (ms: number): string {
  return `${Math.round(ms / 10) / 100} s`
}
