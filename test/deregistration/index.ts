import t from 'tap'
import { letGo } from '../../lib/deregistration/index.js'
import { type DeregistrationContext } from '../../types/index.js'
import { waiting } from '../support/waiting.js'

t.test('none: nothing is waited for', async (t) => {
  const { clock, parts } = waiting({ deregistration: 'none' })
  t.equal(await letGo(parts, new AbortController().signal), 'deregistration is none: nothing is waited for')
  t.equal(clock.pending, 0)
})

t.test('delay and traffic are those of their files', async (t) => {
  for (const [deregistration, reason] of [
    ['delay', 'the whole deregistration delay of 20 s was waited for'], ['traffic', /^neither a request nor a probe has ever come/]
  ] as const) {
    const { clock, parts } = waiting({ deregistration })
    const answer = letGo(parts, new AbortController().signal)
    await clock.advance(20_000)
    t.match(await answer, reason)
  }
})

t.test('a function', async (t) => {
  t.test('answers with its own reason', async (t) => {
    const { parts } = waiting({ deregistration: async () => 'the target is gone' })
    t.equal(await letGo(parts, new AbortController().signal), 'the target is gone')
  })

  t.test('may answer anything: it is logged as text', async (t) => {
    const { parts } = waiting({ deregistration: (() => 42) as never })
    t.equal(await letGo(parts, new AbortController().signal), '42')
  })

  t.test('is told the reason, the marks, and what goes on', async (t) => {
    let context!: DeregistrationContext
    let given!: AbortSignal
    const { clock, parts, traffic } = waiting({
      deregistrationDelay: 5,
      deregistration: (told, signal) => {
        context = told
        given = signal
        return new Promise(() => {})
      }
    })
    const { signal } = new AbortController()
    void letGo(parts, signal)
    t.equal(given, signal)
    t.match(context, { reason: 'SIGTERM', drainEndMs: 5000, drainLimitMs: 20_000 })
    t.equal(context.elapsedMs(), 0)
    t.equal(context.silenceMs(), undefined, 'there was no request yet')
    t.equal(context.inFlight(), 0)
    await clock.advance(1000)
    const request = traffic.request()
    await clock.advance(250)
    t.equal(context.elapsedMs(), 1250)
    t.equal(context.silenceMs(), 250)
    t.equal(context.inFlight(), 1)
    request.end()
    t.equal(context.inFlight(), 0)
  })

  for (const [how, strategy] of [
    ['rejects', () => Promise.reject(new Error('no credentials'))], ['throws', () => { throw new Error('no credentials') }]
  ] as const) {
    t.test(`one that ${how} is logged, and traffic takes over`, async (t) => {
      const { clock, parts, lines, traffic } = waiting({ deregistration: strategy as () => Promise<string> })
      traffic.request().end()
      let reason: string | undefined
      void letGo(parts, new AbortController().signal).then((given) => { reason = given })
      await clock.advance(19_999)
      t.equal(reason, undefined)
      await clock.advance(1)
      t.match(reason, /^the deregistration window of 20 s has passed/)
      t.match(lines, [{ level: 'warn', err: { message: 'no credentials' }, msg: 'the deregistration function failed, so the strategy "traffic" takes over' }])
    })
  }

  t.test('one that rejects because draining was ended does not begin to wait', async (t) => {
    const controller = new AbortController()
    const { clock, parts, traffic } = waiting({
      deregistration: (_context, signal) => new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => { reject(new Error('given up')) })
      })
    })
    traffic.request()
    const answer = letGo(parts, controller.signal)
    controller.abort(new Error('the drain limit'))
    t.equal(await answer, 'draining was ended')
    t.equal(clock.pending, 0)
  })
})
