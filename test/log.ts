import { EventEmitter } from 'node:events'
import { type FastifyBaseLogger } from 'fastify'
import { pino } from 'pino'
import t from 'tap'
import { FLUSH_LIMIT_MS, flushLog } from '../lib/log.js'
import { ManualClock } from './support/clock.js'

/** A logger as pino makes it, on a destination as the test makes it. */
function flush (destination: EventEmitter) {
  const clock = new ManualClock()
  const log = pino({}, Object.assign(destination, { write () {} }) as unknown as pino.DestinationStream) as FastifyBaseLogger
  const state = { isFlushed: false }
  void flushLog(log, clock).then(() => { state.isFlushed = true })
  return { clock, state }
}

t.test('a logger without a stream of pino\'s has nothing to wait for', async (t) => {
  const clock = new ManualClock()
  await flushLog({ info () {} } as unknown as FastifyBaseLogger, clock)
  await flushLog(Object.create(null) as FastifyBaseLogger, clock)
  t.equal(clock.pending, 0)
})

t.test('a destination that is not writing has nothing to wait for', async (t) => {
  for (const destination of [{}, { _writing: false }]) {
    const { clock, state } = flush(Object.assign(new EventEmitter(), destination))
    await clock.settle()
    t.equal(state.isFlushed, true)
    t.equal(clock.pending, 0)
  }
})

t.test('a destination that is writing is waited for, until it has drained', async (t) => {
  const destination = Object.assign(new EventEmitter(), { _writing: true })
  const { clock, state } = flush(destination)
  await clock.advance(FLUSH_LIMIT_MS - 1)
  t.equal(state.isFlushed, false)
  destination.emit('drain')
  await clock.settle()
  t.equal(state.isFlushed, true)
  t.equal(clock.pending, 0)
})

t.test('it is waited for half a second, no longer', async (t) => {
  t.equal(FLUSH_LIMIT_MS, 500)
  const { clock, state } = flush(Object.assign(new EventEmitter(), { _writing: true }))
  await clock.advance(500)
  t.equal(state.isFlushed, true)
})

t.test('a transport gets its lines, then 200 ms for its target, then the end of its thread is waited for', async (t) => {
  const did: string[] = []
  const transport = Object.assign(new EventEmitter(), { worker: {}, flushSync () { did.push('flushSync') }, end () { did.push('end') } })
  const { clock, state } = flush(transport)
  await clock.advance(199)
  t.strictSame(did, ['flushSync'])
  await clock.advance(1)
  t.strictSame(did, ['flushSync', 'end'])
  t.equal(state.isFlushed, false)
  transport.emit('close')
  await clock.settle()
  t.equal(state.isFlushed, true)
  t.equal(clock.pending, 0)
})

t.test('a transport whose thread does not end is waited for another half a second, no longer', async (t) => {
  for (const more of [{ end () {} }, {}]) {
    const { clock, state } = flush(Object.assign(new EventEmitter(), { worker: {}, ...more }))
    await clock.advance(200)
    await clock.advance(499)
    t.equal(state.isFlushed, false)
    await clock.advance(1)
    t.equal(state.isFlushed, true)
  }
})

t.test('a child logger has the destination of its parent', async (t) => {
  const clock = new ManualClock()
  const destination = Object.assign(new EventEmitter(), { _writing: true, write () {} })
  let isFlushed = false
  void flushLog(pino({}, destination as unknown as pino.DestinationStream).child({ a: 1 }) as FastifyBaseLogger, clock).then(() => { isFlushed = true })
  await clock.settle()
  t.equal(isFlushed, false)
  destination.emit('drain')
  await clock.settle()
  t.equal(isFlushed, true)
})
