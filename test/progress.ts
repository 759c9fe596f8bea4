import t from 'tap'
import { Countdown } from '../lib/countdown.js'
import { type Holders } from '../lib/holders.js'
import { type Lifecycle } from '../lib/lifecycle.js'
import { logProgress } from '../lib/progress.js'
import { computeTimeline } from '../lib/timeline.js'
import { type Holder, type State } from '../types/index.js'
import { ManualClock } from './support/clock.js'
import { memoryLog } from './support/log.js'

t.test('every five seconds the log says what is waited for, and for how long still', async (t) => {
  const clock = new ManualClock()
  const { log, of } = memoryLog()
  const timeline = computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: 2.8 })
  const countdown = new Countdown(clock, timeline)
  let current: Holder[] = []
  const asked: boolean[] = []
  const holders = { current: (isDraining: boolean) => { asked.push(isDraining); return current } } as unknown as Holders
  const lifecycle: { state: State } = { state: 'draining' }
  countdown.start()
  const stop = logProgress({ clock, countdown, holders, lifecycle: lifecycle as Lifecycle, log, timeline }, 'SIGTERM')
  await clock.advance(4999)
  t.strictSame(of('info'), [])
  await clock.advance(1)
  current = [{ kind: 'job', name: 'job order', ageMs: 7000 }, { kind: 'job', name: 'job order', ageMs: 1000 }]
  await clock.advance(5000)
  lifecycle.state = 'closing'
  await clock.advance(5000)
  current = []
  await clock.advance(5000)
  t.strictSame(of('info'), [
    'draining, 5 s after SIGTERM: waiting for the load balancer; draining ends in 15 s at the latest, the deadline is in 23 s',
    'draining, 10 s after SIGTERM: waiting for the load balancer, 2 of job order (up to 7 s); draining ends in 10 s at the latest, the deadline is in 18 s',
    'closing, 15 s after SIGTERM: waiting for 2 of job order (up to 7 s); the deadline is in 13 s',
    'closing, 20 s after SIGTERM: waiting for fastify.close(); the deadline is in 8 s'
  ])
  t.strictSame(asked, [true, true, false, false])
  stop()
  countdown.stop()
  t.equal(clock.pending, 0)
})

t.test('a stop that ends within five seconds says nothing, and leaves no timer', async (t) => {
  const clock = new ManualClock()
  const { lines, log } = memoryLog()
  const timeline = computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: 2.8 })
  const countdown = new Countdown(clock, timeline)
  const holders = { current: () => { throw new Error('nobody is asked') } } as unknown as Holders
  const stop = logProgress({ clock, countdown, holders, lifecycle: { state: 'draining' } as Lifecycle, log, timeline }, 'SIGTERM')
  await clock.advance(4999)
  stop()
  stop()
  t.equal(clock.pending, 0)
  await clock.advance(10_000)
  t.strictSame(lines, [])
})
