import { channel } from 'node:diagnostics_channel'
import { type FastifyInstance } from 'fastify'
import t from 'tap'
import { inSeconds, listHolders, makeReport, publishReport, type Facts, publishState, summary } from '../lib/report.js'
import { type Holder, type ShutdownReport } from '../types/index.js'
import { computeTimeline } from '../lib/timeline.js'
import { memoryLog } from './support/log.js'

const clean: ShutdownReport = {
  reason: 'SIGTERM',
  exitCode: 0,
  order: 'unknown',
  drainEnded: 'no request for 3 s',
  durations: { drainingMs: 3000, closingMs: 10, closeMs: 5, totalMs: 3015 },
  requests: { inFlightAtSignal: 1, servedWhileDraining: 12, lastAfterMs: 20 },
  cut: [],
  cutCount: 0,
  errors: [],
  stopTimeoutMs: 30_000,
  deadlineMs: 28_000
}

const holder: Holder = { kind: 'request', name: 'GET /reports/:id', ageMs: 12_345, requestId: 'req-7' }
const hook: Holder = { kind: 'hook', name: 'onClosing hook flush', ageMs: 40 }
const fastify = {} as FastifyInstance

t.test('a stop that lost nothing says so in one sentence', async (t) => {
  t.equal(summary(clean), 'stopped 3.02 s after SIGTERM, served 12 requests after it, nothing was lost')
})

t.test('a stop that lost something says what was cut and what failed', async (t) => {
  const report: ShutdownReport = {
    ...clean, exitCode: 1, cut: [holder, hook], cutCount: 2, errors: [{ where: 'fastify.close()', message: 'no' }, { where: 'onClosing hook x', message: 'never' }]
  }
  t.equal(summary(report), 'stopped 3.02 s after SIGTERM, served 12 requests after it, exit code 1: cut: GET /reports/:id (req-7, 12.35 s), onClosing hook flush (0.04 s); failed: fastify.close() (no), onClosing hook x (never)')
  t.match(summary({ ...report, cut: [], cutCount: 0 }), /exit code 1: failed: /)
  t.notMatch(summary({ ...report, errors: [] }), 'failed')
  t.match(summary({ ...report, cutCount: 2 }), /flush \(0\.04 s\); failed/)
  t.match(summary({ ...report, cutCount: 1234 }), /flush \(0\.04 s\), 1234 in all; failed/)
})

t.test('ten holders are named, the others are counted', async (t) => {
  const holders = Array.from({ length: 12 }, (_, index): Holder => ({ kind: 'request', name: `GET /${index}`, ageMs: 1000 }))
  t.equal(listHolders([]), '')
  t.equal(listHolders(holders.slice(0, 10)).split(', ').length, 10)
  t.notMatch(listHolders(holders.slice(0, 10)), 'more')
  t.match(listHolders(holders), /^GET \/0 \(1 s\), GET \/1 \(1 s\), .*, GET \/9 \(1 s\) and 2 more$/)
})

t.test('holders of one name are one, with their number and the oldest', async (t) => {
  const streams = [3000, 7000, 5000].map((ageMs): Holder => ({ kind: 'stream', name: 'GET /events', ageMs, requestId: 'req-1' }))
  t.equal(listHolders([streams[0]!, holder, ...streams.slice(1)]), '3 of GET /events (up to 7 s), GET /reports/:id (req-7, 12.35 s)')
})

t.test('times are seconds with two digits', async (t) => {
  t.strictSame([0, 4, 5, 1000, 12_345, 60_000].map(inSeconds), ['0 s', '0 s', '0.01 s', '1 s', '12.35 s', '60 s'])
})

t.test('the report is one line of the log: at info when nothing was lost, else at error', async (t) => {
  for (const [report, level] of [[clean, 'info'], [{ ...clean, exitCode: 1, cut: [hook] } as ShutdownReport, 'error']] as const) {
    const { log, lines } = memoryLog()
    publishReport(fastify, log, report)
    t.strictSame(lines, [{ level, report, msg: summary(report) }])
  }
})

t.test('the report goes to the channel fastify-fargate.report, the state to fastify-fargate.state', async (t) => {
  const messages: unknown[][] = []
  for (const name of ['fastify-fargate.report', 'fastify-fargate.state']) {
    const listener = (message: unknown) => { messages.push([name, message]) }
    channel(name).subscribe(listener)
    t.teardown(() => channel(name).unsubscribe(listener))
  }
  publishState({ fastify, from: 'ready', to: 'draining', reason: 'SIGTERM' })
  publishReport(fastify, memoryLog().log, clean)
  t.strictSame(messages, [
    ['fastify-fargate.state', { fastify, from: 'ready', to: 'draining', reason: 'SIGTERM' }],
    ['fastify-fargate.report', { fastify, report: clean }]
  ])
})

t.test('makeReport', async (t) => {
  const facts: Facts = {
    reason: 'SIGTERM',
    drainEnded: 'no request for 3 s',
    isDrainedBySilence: false,
    drainedAfterMs: 3000.4,
    finishedAfterMs: 3010.6,
    totalMs: 3015.8,
    inFlightAtSignal: 2,
    servedWhileDraining: 12,
    lastAfterMs: undefined,
    cut: [],
    cutCount: 0,
    errors: [],
    timeline: computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: 2.8 })
  }

  t.test('the durations follow each other, in whole milliseconds', async (t) => {
    t.strictSame(makeReport(facts), {
      reason: 'SIGTERM',
      exitCode: 0,
      order: 'unknown',
      drainEnded: 'no request for 3 s',
      durations: { drainingMs: 3000, closingMs: 10, closeMs: 5, totalMs: 3016 },
      requests: { inFlightAtSignal: 2, servedWhileDraining: 12, lastAfterMs: null },
      cut: [],
      cutCount: 0,
      errors: [],
      stopTimeoutMs: 30_000,
      deadlineMs: 28_000
    })
  })

  t.test('a request after the signal is what tells the order, whatever ended draining', async (t) => {
    t.match(makeReport({ ...facts, lastAfterMs: 20.4, isDrainedBySilence: true }), { order: 'signal-first', requests: { lastAfterMs: 20 } })
    for (const lastAfterMs of [undefined, -4000, 0]) {
      t.match(makeReport({ ...facts, lastAfterMs }), { order: 'unknown', requests: { lastAfterMs: null } })
      t.match(makeReport({ ...facts, lastAfterMs, isDrainedBySilence: true }), { order: 'deregistered-first', requests: { lastAfterMs: null } })
    }
  })

  t.test('what was cut or failed makes the exit code 1, and is in it', async (t) => {
    t.match(makeReport({ ...facts, cut: [holder], cutCount: 1 }), { exitCode: 1, cut: [holder], cutCount: 1 })
    const errors = [{ where: 'fastify.close()', message: 'no' }]
    t.match(makeReport({ ...facts, errors }), { exitCode: 1, errors })
  })

  t.test('a clean one says nothing of what was lost', async (t) => {
    t.match(summary(makeReport({ ...facts, cut: [holder], cutCount: 1 })), /exit code 1: cut: GET \/reports\/:id \(req-7, 12\.35 s\)$/)
    t.match(summary(makeReport({ ...facts, errors: [{ where: 'x', message: 'y' }] })), /exit code 1: failed: x \(y\)$/)
  })
})
