import t from 'tap'
import { Coordinator, processCoordinator, type Member } from '../lib/coordinator.js'
import { type StopRequest } from '../lib/sequence.js'
import { type ShutdownReport } from '../types/index.js'
import { ManualClock } from './support/clock.js'
import { FakeHost } from './support/host.js'
import { memoryLog } from './support/log.js'

interface FakeMember extends Member {
  /** What it was told, in order. */
  readonly told: unknown[][]
  /** Its stop has ended. */
  end: (exitCode?: 0 | 1) => void
  leave: () => void
}

function make () {
  const clock = new ManualClock()
  const host = new FakeHost(clock)
  const coordinator = new Coordinator(host, clock)
  const join = (options: Partial<Member> = {}): FakeMember => {
    const told: unknown[][] = []
    let end!: FakeMember['end']
    const stopped = new Promise<ShutdownReport>((resolve) => {
      end = (exitCode = 0) => {
        member.leave()
        resolve({ exitCode } as ShutdownReport)
      }
    })
    const member: FakeMember = {
      log: memoryLog().log,
      crash: 'close',
      stopSignal: 'SIGTERM',
      backstopMs: 29_000,
      told,
      end,
      leave () {},
      stop: (request) => {
        told.push(['stop', request])
        return stopped
      },
      hasten: (reason) => { told.push(['hasten', reason]) },
      fail: (where, error) => { told.push(['fail', where, error]) },
      giveUp: (reason) => { told.push(['giveUp', reason]) },
      ...options
    }
    member.leave = coordinator.join(member)
    return member
  }
  return { clock, coordinator, host, join }
}

const stop = (reason: string, waits = true) => ['stop', { reason, waits } satisfies StopRequest]

t.test('listeners', async (t) => {
  t.test('there is one for each signal and each kind of error, whatever the number of instances', async (t) => {
    const { host, join } = make()
    for (let i = 0; i < 3; i++) join()
    for (const event of ['SIGTERM', 'SIGINT', 'uncaughtException', 'unhandledRejection']) t.equal(host.listeners(event).length, 1, event)
    t.equal(host.listening, 4)
  })

  t.test('an image\'s own stop signal is listened to beside SIGTERM', async (t) => {
    const { host, join } = make()
    join()
    join({ stopSignal: 'SIGQUIT' })
    t.equal(host.listeners('SIGQUIT').length, 1)
    t.equal(host.listeners('SIGTERM').length, 1)
  })

  t.test('nothing stays behind when the last instance has left', async (t) => {
    const { host, join } = make()
    const [one, two] = [join({ stopSignal: 'SIGUSR2' }), join()]
    one.leave()
    t.equal(host.listening, 5, 'one is still there')
    two.leave()
    t.equal(host.listening, 0)
    join()
    t.equal(host.listening, 4, 'and it may begin anew')
  })

  t.test('while the process stops they stay until its end: a second signal has a meaning', async (t) => {
    const { host, join } = make()
    const member = join()
    host.emit('SIGTERM')
    member.end()
    t.equal(host.listening, 4)
  })

  t.test('those of others are counted, ours is not', async (t) => {
    const { coordinator, host, join } = make()
    host.on('SIGTERM', () => {})
    t.equal(coordinator.foreignListeners('SIGTERM'), 1)
    join()
    host.on('SIGTERM', () => {})
    t.equal(coordinator.foreignListeners('SIGTERM'), 2)
    t.equal(coordinator.foreignListeners('SIGHUP'), 0)
  })
})

t.test('the first signal', async (t) => {
  for (const [signal, waits] of [['SIGTERM', true], ['SIGINT', false]] as const) {
    t.test(`${signal} stops every instance, ${waits ? 'with' : 'without'} a wait for the load balancer`, async (t) => {
      const { host, join } = make()
      const members = [join(), join()]
      host.emit(signal)
      for (const { told } of members) t.strictSame(told, [stop(signal, waits)])
    })
  }

  t.test('SIGINT waits where it is the image\'s stop signal', async (t) => {
    const { host, join } = make()
    const member = join({ stopSignal: 'SIGINT' })
    host.emit('SIGINT')
    t.strictSame(member.told, [stop('SIGINT')])
  })

  t.test('another stop signal waits as SIGTERM does', async (t) => {
    const { host, join } = make()
    const member = join({ stopSignal: 'SIGQUIT' })
    host.emit('SIGQUIT')
    t.strictSame(member.told, [stop('SIGQUIT')])
  })
})

t.test('the exit', async (t) => {
  t.test('comes when the last instance has stopped, with 0 when nothing was lost', async (t) => {
    const { clock, host, join } = make()
    const [one, two] = [join(), join()]
    host.emit('SIGTERM')
    one.end()
    await clock.settle()
    t.strictSame(host.exits, [])
    two.end()
    await clock.settle()
    t.match(host.exits, [{ code: 0 }])
    t.equal(clock.pending, 0)
  })

  t.test('is 1 when one of them lost something', async (t) => {
    for (const codes of [[1, 0], [0, 1]] as const) {
      const { clock, host, join } = make()
      const members = [join(), join()]
      host.emit('SIGTERM')
      members.forEach((member, index) => { member.end(codes[index]!) })
      await clock.settle()
      t.match(host.exits, [{ code: 1 }])
    }
  })

  t.test('is forced at the earliest backstop: each instance says who held it, then 1', async (t) => {
    const { clock, host, join } = make()
    const members = [join({ backstopMs: 29_000 }), join({ backstopMs: 9000 })]
    host.emit('SIGTERM')
    t.strictSame(host.limits, [9000])
    await clock.advance(8999)
    t.strictSame(host.exits, [])
    await clock.advance(1)
    t.match(host.exits, [{ code: 1 }])
    for (const { told } of members) t.strictSame(told.at(-1), ['giveUp', 'the stop took longer than its budget'])
  })

  t.test('when it is forced, an instance that has joined meanwhile says who held it, too', async (t) => {
    const { clock, host, join } = make()
    join()
    host.emit('SIGTERM')
    const late = join()
    await clock.advance(29_000)
    t.match(host.exits, [{ code: 1 }])
    t.strictSame(late.told, [stop('SIGTERM'), ['giveUp', 'the stop took longer than its budget']])
  })

  t.test('waits for the log, half a second at most', async (t) => {
    for (const exitCode of [0, 1] as const) {
      const { clock, host, join } = make()
      const listeners: Array<() => void> = []
      const stream = { _writing: true, once: (_event: string, listener: () => void) => { listeners.push(listener) } }
      const member = join({ log: { [Symbol('pino.stream')]: stream } as never })
      host.emit('SIGTERM')
      member.end(exitCode)
      await clock.settle()
      t.strictSame(host.exits, [])
      stream._writing = false
      for (const listener of listeners) listener()
      await clock.settle()
      t.match(host.exits, [{ code: exitCode }])
    }
  })

  t.test('an error while the log is written still makes the exit code 1', async (t) => {
    const { clock, host, join } = make()
    const member = join({ log: { [Symbol('pino.stream')]: { _writing: true, once () {} } } as never })
    host.emit('SIGTERM')
    member.end()
    await clock.settle()
    host.emit('uncaughtException', new Error('late'))
    await clock.advance(500)
    t.match(host.exits, [{ code: 1 }])
  })

  t.test('an instance that joins while the others stop, stops too, and is waited for', async (t) => {
    const { clock, host, join } = make()
    const one = join()
    host.emit('SIGTERM')
    const two = join()
    t.strictSame(two.told, [stop('SIGTERM')])
    one.end()
    await clock.settle()
    t.strictSame(host.exits, [])
    two.end(1)
    await clock.settle()
    t.match(host.exits, [{ code: 1 }])
  })

  t.test('asked for twice, the first one counts', async (t) => {
    const { clock, coordinator, host, join } = make()
    const member = join()
    coordinator.exit({ reason: 'begin', waits: true })
    coordinator.exit({ reason: 'again', waits: false })
    member.end()
    await clock.settle()
    t.strictSame(member.told, [stop('begin')])
    t.equal(host.exits.length, 1)
  })

  t.test('asked for when every instance has left already comes at once, with a limit that is a time', async (t) => {
    const { clock, coordinator, host, join } = make()
    join().leave()
    coordinator.exit({ reason: 'begin', waits: true })
    await clock.settle()
    t.match(host.exits, [{ code: 0 }])
    t.ok(host.limits.every(Number.isFinite), 'Node takes a timer of Infinity for one of 1 ms')
  })
})

t.test('more signals', async (t) => {
  t.test('the same one within 250 ms is one signal delivered twice', async (t) => {
    const { clock, host, join } = make()
    const member = join()
    host.emit('SIGTERM')
    host.emit('SIGTERM')
    await clock.advance(249)
    host.emit('SIGTERM')
    t.strictSame(member.told, [stop('SIGTERM')])
  })

  t.test('a second one after 250 ms ends draining', async (t) => {
    const { clock, host, join } = make()
    const members = [join(), join()]
    host.emit('SIGTERM')
    await clock.advance(250)
    host.emit('SIGTERM')
    for (const { told } of members) t.strictSame(told, [stop('SIGTERM'), ['hasten', 'SIGTERM came as a second stop signal']])
    t.strictSame(host.exits, [])
  })

  t.test('another one is a second one at any time', async (t) => {
    const { host, join } = make()
    const member = join()
    host.emit('SIGTERM')
    host.emit('SIGINT')
    t.strictSame(member.told[1], ['hasten', 'SIGINT came as a second stop signal'])
  })

  t.test('a third one exits with 1 at once, and each instance says who held it', async (t) => {
    const { clock, host, join } = make()
    const members = [join(), join()]
    host.emit('SIGTERM')
    for (let i = 0; i < 2; i++) {
      await clock.advance(300)
      host.emit('SIGTERM')
    }
    t.match(host.exits, [{ code: 1 }])
    for (const { told } of members) t.strictSame(told[2], ['giveUp', 'SIGTERM came again'])
  })

  t.test('a second SIGINT does so, too: a developer in a hurry', async (t) => {
    const { clock, host, join } = make()
    const member = join()
    host.emit('SIGINT')
    await clock.advance(300)
    host.emit('SIGINT')
    t.match(host.exits, [{ code: 1 }])
    t.strictSame(member.told[1], ['giveUp', 'SIGINT came again'])
  })

  t.test('but not where SIGINT is the image\'s stop signal', async (t) => {
    const { clock, host, join } = make()
    const member = join({ stopSignal: 'SIGINT' })
    host.emit('SIGINT')
    await clock.advance(300)
    host.emit('SIGINT')
    t.strictSame(host.exits, [])
    t.strictSame(member.told[1], ['hasten', 'SIGINT came as a second stop signal'])
  })

  t.test('the first signal during a stop that began without one is no second signal: ECS has noticed', async (t) => {
    const { coordinator, host, join } = make()
    const member = join()
    coordinator.exit({ reason: 'begin', waits: true })
    host.emit('SIGTERM')
    t.strictSame(member.told, [stop('begin'), stop('SIGTERM')], 'the stop that runs goes on')
    host.emit('SIGINT')
    t.strictSame(member.told.at(-1), ['hasten', 'SIGINT came as a second stop signal'])
    t.strictSame(host.exits, [])
  })
  t.test('one that has stopped is not hastened', async (t) => {
    const { clock, host, join } = make()
    const [one, two] = [join(), join()]
    host.emit('SIGTERM')
    one.end()
    await clock.advance(300)
    host.emit('SIGTERM')
    t.equal(one.told.length, 1)
    t.equal(two.told.length, 2)
  })
})

t.test('an error that nobody caught', async (t) => {
  const error = new Error('oops')

  for (const event of ['uncaughtException', 'unhandledRejection']) {
    t.test(`${event} with crash close: what is in flight ends, without a wait, and the code is 1`, async (t) => {
      const { clock, host, join } = make()
      const members = [join(), join()]
      host.emit(event, error)
      for (const { told } of members) t.strictSame(told, [['fail', event, error], stop(event, false)])
      for (const member of members) member.end()
      await clock.settle()
      t.match(host.exits, [{ code: 1 }], 'whatever the reports say')
    })

    t.test(`${event} with crash drain: the same, with the wait`, async (t) => {
      const { host, join } = make()
      const member = join({ crash: 'drain' })
      host.emit(event, error)
      t.strictSame(member.told, [['fail', event, error], stop(event, true)])
    })

    t.test(`${event} with crash exit: nothing is stopped, and the exit comes when the log is written`, async (t) => {
      const { clock, host, join } = make()
      const member = join({ crash: 'exit' })
      host.emit(event, error)
      await clock.settle()
      t.strictSame(member.told, [['fail', event, error]])
      t.match(host.exits, [{ code: 1 }])
      t.ok(host.limits[0]! <= 1000, 'within a second')
    })
  }

  t.test('with crash exit a log that hangs does not hold it', async (t) => {
    const { clock, host, join } = make()
    join({ crash: 'exit', log: { [Symbol('pino.stream')]: { _writing: true, once () {} } } as never })
    host.emit('uncaughtException', error)
    await clock.advance(500)
    t.match(host.exits, [{ code: 1 }])
  })

  t.test('during a stop changes nothing but the exit code, whatever crash says', async (t) => {
    for (const crash of ['close', 'drain', 'exit'] as const) {
      const { clock, host, join } = make()
      const member = join({ crash })
      host.emit('SIGTERM')
      await clock.advance(1000)
      host.emit('unhandledRejection', error)
      t.strictSame(member.told, [stop('SIGTERM'), ['fail', 'unhandledRejection', error]])
      t.strictSame(host.exits, [])
      member.end()
      await clock.settle()
      t.match(host.exits, [{ code: 1 }])
    }
  })

  t.test('after the last instance has stopped still makes the exit code 1', async (t) => {
    const { clock, host, join } = make()
    const member = join()
    host.emit('SIGTERM')
    member.end()
    host.emit('uncaughtException', error)
    await clock.settle()
    t.match(host.exits, [{ code: 1 }])
  })
})

t.test('there is one coordinator a process, also for two copies of the package', async (t) => {
  const key = Symbol.for('fastify-fargate.coordinator')
  const shared = globalThis as Record<symbol, unknown>
  const before = shared[key]
  t.teardown(() => { shared[key] = before })
  delete shared[key]
  const clock = new ManualClock()
  const first = processCoordinator(new FakeHost(clock), clock)
  t.equal(processCoordinator(new FakeHost(clock), clock), first)
  t.equal(shared[key], first)
})

t.test('isExiting: from the first stop that ends the process', async (t) => {
  const { coordinator, host, join } = make()
  join()
  t.equal(coordinator.isExiting, false)
  host.emit('SIGTERM')
  t.equal(coordinator.isExiting, true)
})

t.test('SIGINT waits for the load balancer where it is the stop signal of one of several instances', async (t) => {
  const { host, join } = make()
  const [one, other] = [join({ stopSignal: 'SIGINT' }), join()]
  host.emit('SIGINT')
  for (const { told } of [one, other]) t.strictSame(told, [stop('SIGINT', true)])
})

t.test('a crash with `exit` gives the log twice the time that it may take', async (t) => {
  const { host, join } = make()
  join({ crash: 'exit' })
  host.emit('uncaughtException', new Error('crash'))
  t.strictSame(host.limits, [1000])
})

t.test('the coordinator of a process is one, whoever asks for it, and works', async (t) => {
  const clock = new ManualClock()
  const host = new FakeHost(clock)
  const key = Symbol.for('fastify-fargate.coordinator')
  const before = (globalThis as Record<symbol, unknown>)[key]
  t.teardown(() => { (globalThis as Record<symbol, unknown>)[key] = before })
  delete (globalThis as Record<symbol, unknown>)[key]
  const one = processCoordinator(host, clock)
  t.ok(one instanceof Coordinator)
  t.equal(processCoordinator(new FakeHost(clock), clock), one)
  t.equal((globalThis as Record<symbol, unknown>)[key], one)
})

t.test('process.exit() in the middle of a stop is named by the instances that have not ended', async (t) => {
  const { host, join } = make()
  const done = join()
  const member = join()
  host.endProcess()
  host.emit('SIGTERM')
  done.end()
  host.endProcess()
  t.strictSame(member.told, [stop('SIGTERM'), ['giveUp', 'the application called process.exit()']])
  t.strictSame(done.told, [stop('SIGTERM')])
})
