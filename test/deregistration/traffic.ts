import t from 'tap'
import { type Environment } from '../../lib/config.js'
import { traffic as untilSilent } from '../../lib/deregistration/traffic.js'
import { type FargateOptions } from '../../types/index.js'
import { waiting, type WaitingParts } from '../support/waiting.js'

const ECS: Environment = { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' }

type Before = (made: Omit<WaitingParts, 'parts'>) => void

/**
 * A request every 100 ms, say, for five minutes, and then none for so long. Silence is ten of these pauses, or `quiet`; it
 * begins at the end of the 20 ms in which the last request came.
 */
const busy = (silentMs: number, pauseMs = 100): Before => ({ clock, traffic }) => {
  const connection = traffic.connect()
  const arrive = () => {
    traffic.request(connection).end()
  }
  for (let i = 0; i < 300_000 / pauseMs; i++) {
    arrive()
    clock.skip(pauseMs)
  }
  clock.skip(silentMs - pauseMs)
}

function begin (options: FargateOptions = {}, { env, before }: { env?: Environment, before?: Before } = {}) {
  const made = waiting(options, { ...(env && { env }), ...(before && { before }) })
  const controller = new AbortController()
  const state: { reason?: string, atMs?: number } = {}
  const startedAt = made.clock.now()
  void untilSilent(made.parts, controller.signal).then((reason) => {
    state.reason = reason
    state.atMs = made.clock.now() - startedAt
  })
  return { ...made, controller, state }
}

t.test('a service that has never had a request or a probe', async (t) => {
  t.test('outside ECS: nothing is waited for', async (t) => {
    const { clock, state } = begin()
    await clock.settle()
    t.equal(state.reason, 'neither a request nor a probe has ever come, and this is not ECS')
    t.equal(clock.pending, 0)
  })

  t.test('in ECS: the whole window, as it may have been stopped before its first request', async (t) => {
    const { clock, state } = begin({}, { env: ECS })
    await clock.advance(19_999)
    t.equal(state.reason, undefined)
    await clock.advance(1)
    t.match(state.reason, /^the deregistration window of 20 s has passed/)
  })

  t.test('but a probe: the whole window, since a load balancer is there', async (t) => {
    const { clock, state } = begin({}, { before: ({ requests, traffic }) => { requests.probed(traffic.request().req) } })
    await clock.advance(19_999)
    t.equal(state.reason, undefined)
    await clock.advance(1)
    t.match(state.reason, /^the deregistration window of 20 s has passed/)
  })
})

t.test('deregistered first: a busy service that is silent already may close at once', async (t) => {
  const { clock, state } = begin({}, { before: busy(4000) })
  await clock.settle()
  t.match(state.reason, /^no request for 4 s, the usual pause here is 0\.1/)
  t.equal(state.atMs, 0)
  t.equal(clock.pending, 0)
})

t.test('the silence that began before the signal counts, and it wakes up when it is long enough: not before, not after', async (t) => {
  const { clock, state } = begin({}, { before: busy(1000) })
  await clock.advance(2019)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.match(state.reason, /^no request for 3 s/)
  t.equal(state.atMs, 2020)
})

t.test('signal first: while requests come it goes on, and 3 s after the last one it may close', async (t) => {
  const { clock, traffic, state } = begin({}, { before: busy(100) })
  for (let i = 0; i < 50; i++) {
    traffic.request().end()
    await clock.advance(100)
  }
  t.equal(state.reason, undefined, 'five seconds of traffic after the signal')
  await clock.advance(2899)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.match(state.reason, /^no request for 3 s/)
})

t.test('quiet is the floor: no shorter silence is evidence', async (t) => {
  const { clock, state } = begin({ quiet: 8 }, {
    before: (made) => {
      // Ten minutes of traffic: there is no more to be known about it.
      busy(100)(made)
      busy(100)(made)
    }
  })
  await clock.advance(7919)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.match(state.reason, /^no request for 8 s/)
})

t.test('a request that is not answered keeps it from closing; its answer is looked for twice a second', async (t) => {
  const { clock, state, request } = (() => {
    let request!: ReturnType<WaitingParts['traffic']['request']>
    const made = begin({}, {
      before: (given) => {
        busy(100)(given)
        request = given.traffic.request()
        given.clock.skip(5000)
      }
    })
    return { ...made, request }
  })()
  await clock.advance(4000)
  t.equal(state.reason, undefined)
  request.begin()
  await clock.advance(499)
  const seen = state.reason !== undefined
  await clock.advance(1)
  t.match(state.reason, /^no request for/, 'a response that has begun may be endless, and is none that is waited for')
  t.equal(seen, false)
})

t.test('the end of a response wakes it up: ten usual pauses later it may close, however the looks fall', async (t) => {
  // A pause of 20 ms, counted as 22.7 ms at most.
  const { clock, state, traffic } = begin({}, { before: busy(20, 20) })
  const request = traffic.request()
  await clock.advance(4020)
  t.equal(state.reason, undefined)
  request.end()
  await clock.settle()
  t.equal(state.reason, undefined, 'whoever waited for the answer may send the next request')
  await clock.advance(199)
  t.equal(state.reason, undefined)
  await clock.advance(28)
  t.match(state.reason, /^no request for 4\.2 s/)
})

t.test('traffic after drainEnd: as soon as it stops for the floor', async (t) => {
  const { clock, state, traffic } = begin({ deregistrationDelay: 5 }, { env: ECS })
  for (let i = 0; i < 60; i++) {
    traffic.request().end()
    await clock.advance(100)
  }
  t.equal(state.reason, undefined, 'six seconds after the signal')
  await clock.advance(2899)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.match(state.reason, /^the deregistration window of 5 s has passed, and no request came for 3 s/)
  t.equal(state.atMs, 8900)
})

t.test('traffic that does not stop: the drain limit', async (t) => {
  const { clock, state, traffic } = begin({}, { before: busy(100) })
  for (let i = 0; i < 199; i++) {
    traffic.request().end()
    await clock.advance(100)
  }
  t.equal(state.reason, undefined)
  traffic.request().end()
  await clock.advance(100)
  t.equal(state.reason, 'the drain limit of 20 s was reached while requests still came')
})

t.test('a service with few requests waits for the whole window, since its silence proves nothing', async (t) => {
  const { clock, state } = begin({}, {
    before: ({ clock, traffic }) => {
      for (let i = 0; i < 5; i++) {
        traffic.request().end()
        clock.skip(60_000)
      }
    }
  })
  await clock.advance(19_999)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.match(state.reason, /^the deregistration window of 20 s has passed/)
})

t.test('when draining is ended otherwise it waits no longer', async (t) => {
  const { clock, controller, state, traffic } = begin()
  traffic.request()
  await clock.advance(1000)
  controller.abort()
  await clock.settle()
  t.ok(state.reason !== undefined)
  t.equal(clock.pending, 0)
})

t.test('a worker, which has no routes but those for its health', async (t) => {
  t.test('waits for no load balancer, also in ECS and when it is probed', async (t) => {
    const { clock, state } = begin({}, { env: ECS, before: ({ requests }) => { requests.isServing = false } })
    await clock.settle()
    t.equal(state.reason, 'nothing is served here but the health routes')
  })

  t.test('unless requests come all the same: something answers them', async (t) => {
    const { clock, state } = begin({}, { env: ECS, before: ({ requests, traffic }) => { requests.isServing = false; traffic.request().end() } })
    await clock.advance(19_999)
    t.equal(state.reason, undefined)
    await clock.advance(1)
    t.match(state.reason, /^the deregistration window of 20 s has passed/)
  })
})

t.test('when draining is ended before the window is over it wakes up, and says so', async (t) => {
  const { clock, controller, state } = begin({}, { env: ECS })
  await clock.advance(1000)
  t.equal(state.reason, undefined)
  controller.abort()
  await clock.settle()
  t.equal(state.reason, 'draining was ended')
  t.equal(state.atMs, 1000)
  t.equal(clock.pending, 0)
})
