import { channel } from 'node:diagnostics_channel'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Holder, ReportMessage, ShutdownReport, StateMessage } from '../types/index.js'

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

/** One sentence for a person at three in the morning. */
export function summary ({ reason, exitCode, durations, requests, cut, errors }: ShutdownReport): string {
  const lost = [
    ...(cut.length > 0 ? [`cut: ${listHolders(cut)}`] : []),
    ...(errors.length > 0 ? [`failed: ${errors.map(({ where, message }) => `${where} (${message})`).join(', ')}`] : [])
  ]
  const served = `served ${requests.servedWhileDraining} requests after it`
  return exitCode === 0
    ? `stopped ${inSeconds(durations.totalMs)} after ${reason}, ${served}, nothing was lost`
    : `stopped ${inSeconds(durations.totalMs)} after ${reason}, ${served}, exit code 1: ${lost.join('; ')}`
}

const MOST_NAMED = 10

/** `GET /reports/:id (req-7, 12.3 s)` */
export function listHolders (holders: readonly Holder[]): string {
  const named = holders.slice(0, MOST_NAMED).map(({ name, requestId, ageMs }) =>
    `${name} (${requestId === undefined ? '' : `${requestId}, `}${inSeconds(ageMs)})`)
  return holders.length > MOST_NAMED ? `${named.join(', ')} and ${holders.length - MOST_NAMED} more` : named.join(', ')
}

export function inSeconds (ms: number): string {
  return `${Math.round(ms / 10) / 100} s`
}
