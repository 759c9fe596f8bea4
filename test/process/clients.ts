// Clients as they are: they pipeline, leave early, stall, send garbage. Nobody else loses an answer by it, nobody who has
// left is counted, and whoever can hold the process is named.

import t, { type Test } from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, type Wire
} from '../fixtures/process-client.js'
import { start, type Exit, type Service } from '../support/service.js'

t.jobs = 4

/** A machine may be slow. Less than any deadline of the defaults, so whoever is waited for shows. */
const SOON_MS = 15_000
/** Draining until a second signal, and time enough after it. */
const UNTIL_SIGINT = { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' }
const CLOSES = /^connection: close\r$/im

const MODES = [['closing', NO_WAIT, isClosing], ['draining', UNTIL_SIGINT, isDraining]] as const

const get = (path: string, version = '1.1', headers = '') => `GET ${path} HTTP/${version}\r\nHost: x\r\n${headers}\r\n`
const UPLOAD = 'POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n'

for (const [mode, env, moved] of MODES) {
  t.test(`${mode}: three requests in one write, the signal after the first answer: all are answered, in order, the last one says close`, beside(), async t => {
    const service = await startProtocols(t, env)
    const wire = await connect(t, service.port)
    wire.socket.write(get('/plain/one') + get('/held/two') + get('/held/three'))
    await Promise.all([wire.seen(/one$/), holds(service, 'two', 'three')])
    service.kill('SIGTERM')
    await service.line(moved)
    // In the wrong order: the last one has to wait for its turn.
    service.send('three')
    service.send('two')

    t.equal(await wire.ended, 'FIN')
    const answers = wire.text.split('HTTP/1.1 200 OK').slice(1)
    t.strictSame(answers.map(answer => answer.split('\r\n\r\n')[1]), ['one', 'two is answered', 'three is answered'])
    t.strictSame(answers.map(answer => CLOSES.test(answer)), [false, false, true])
    if (mode === 'draining') service.kill('SIGINT')
    // Of those that a client pipelined before the signal the last one stands for all.
    endedWell(t, await service.exited, { inFlightAtSignal: 1, servedWhileDraining: 0 })
  })

  t.test(`${mode}: clients that go away with a request in flight hold nothing, and only who got an answer counts`, beside(), async t => {
    const service = await startProtocols(t, env)
    const leaving = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
    const staying = (await connect(t, service.port)).get('/held/before')
    for (const wire of leaving) wire.get('/leave')
    await Promise.all([holds(service, 'before'), messages(service, 3, ({ held }) => held === 'leave')])
    service.kill('SIGTERM')
    await service.line(moved)
    let served = 0
    if (mode === 'draining') {
      for (let i = 0; i < 3; i++) leaving.push((await connect(t, service.port)).get('/leave'))
      await messages(service, 6, ({ held }) => held === 'leave')
    }
    leaving.forEach(({ socket }, i) => {
      if (i % 3 === 0) socket.destroy()
      else if (i % 3 === 1) socket.resetAndDestroy()
      // Node gives no answer to a client that has ended its side.
      else socket.end()
    })
    await messages(service, leaving.length, ({ gone }) => gone)
    if (mode === 'draining') {
      const fresh = (await connect(t, service.port)).get('/plain/fresh')
      t.equal(await fresh.ended, 'FIN')
      served = 1
    }
    service.send('before')
    t.equal(await staying.ended, 'FIN')
    t.match(staying.text, /before is answered$/)
    if (mode === 'draining') service.kill('SIGINT')

    // Their handlers are still waiting.
    endedWell(t, await service.exited, { inFlightAtSignal: 4, servedWhileDraining: served })
  })

  t.test(`${mode}: clients of HTTP/1.0 and those that asked to close get their answer, which says close`, beside(), async t => {
    const service = await startProtocols(t, env)
    const wires = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
    const [old, kept, closing] = wires as [Wire, Wire, Wire]
    old.socket.write(get('/held/a', '1.0'))
    kept.socket.write(get('/held/b', '1.0', 'Connection: keep-alive\r\n'))
    closing.get('/held/c', 'Connection: close\r\n')
    await holds(service, 'a', 'b', 'c')
    service.kill('SIGTERM')
    await service.line(moved)
    for (const name of ['a', 'b', 'c']) service.send(name)

    t.strictSame(await ends(wires), ['FIN', 'FIN', 'FIN'])
    for (const { text } of wires) {
      t.match(text, /^HTTP\/1\.1 200 OK\r\n[^]*[abc] is answered$/)
      t.match(text, CLOSES)
    }
    if (mode === 'draining') service.kill('SIGINT')
    endedWell(t, await service.exited, { inFlightAtSignal: 3, servedWhileDraining: 0 })
  })

  t.test(`${mode}: garbage, resets and halves of a header cost nobody else an answer, and hold nothing`, beside(), async t => {
    const service = await startProtocols(t, env)
    const good = (await connect(t, service.port)).get('/held/good')
    const before = await misbehave(t, service)
    await holds(service, 'good')
    service.kill('SIGTERM')
    await service.line(moved)
    const during = mode === 'draining' ? await misbehave(t, service) : []
    if (mode === 'draining') {
      service.kill('SIGINT')
      await service.line(isClosing)
    }
    t.strictSame(new Set(await ends([...before, ...during])), new Set(['FIN']), 'they go while the good one is in flight')
    service.send('good')

    t.equal(await good.ended, 'FIN')
    t.match(good.text, /^HTTP\/1\.1 200 OK\r\n[^]*good is answered$/)
    endedWell(t, await service.exited, { inFlightAtSignal: 1, servedWhileDraining: mode === 'draining' ? 1 : 0 })
  })

  t.test(`${mode}: who stalls for ever is named and cut at the deadline, and no other; a slow answer beside them is whole`, beside(), async t => {
    // Seconds to the deadline: after the first signal, or after the second one.
    const service = await startProtocols(t, mode === 'closing'
      ? { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '4.5', FARGATE_MARGIN: '1.5' }
      : { ...LONG_WAIT, FARGATE_ABORT_GRACE: '3' })
    const good = (await connect(t, service.port)).get('/held/good')
    const slow = await connect(t, service.port)
    slow.get('/buffer')
    await slow.seen(/\r\n\r\n/)
    slow.socket.pause()
    const wires = [...await misbehave(t, service), ...await stall(t, service)]
    await holds(service, 'good')
    service.kill('SIGTERM')
    await service.line(moved)
    if (mode === 'draining') {
      // Whoever comes after the signal is served beside them.
      const fresh = (await connect(t, service.port)).get('/plain/fresh')
      t.equal(await fresh.ended, 'FIN')
      t.strictSame(fresh.statuses, [200])
      service.kill('SIGINT')
      await service.line(isClosing)
    }
    service.send('good')
    slow.socket.resume()
    t.strictSame(await ends([good, slow]), ['FIN', 'FIN'])
    t.match(good.text, /good is answered$/)
    t.ok(slow.bytes > 50e6, `${slow.bytes} bytes came`)
    t.notOk(service.lines.some(names), 'long before the deadline')

    const { code, signal, report, lines, exitedAtMs } = await service.exited
    for (const { socket } of wires) socket.resume()
    t.notOk((await ends(wires)).includes('closed'), 'all are gone')
    t.strictSame([code, signal], [1, null])
    t.ok(exitedAtMs >= 3000, 'not before the deadline')
    t.ok(exitedAtMs < (mode === 'closing' ? 4500 : SOON_MS), 'and before the stop timeout')
    t.strictSame(report?.cut.map(({ kind, name }: any) => `${kind} ${name}`).sort(), ['request POST /upload', 'request POST /upload', 'response GET /buffer'])
    t.match(report, { exitCode: 1, cutCount: 3, errors: [], requests: { inFlightAtSignal: 5, servedWhileDraining: mode === 'closing' ? 0 : 1 } })
    t.equal(lines.filter(names).length, 1)
    t.ok(lines.some(hasClosed), 'onClose has run')
  })
}

/** Clients that no request is left of, and one that is answered. Resolves when the service has seen them all. */
async function misbehave (t: Test, service: Service): Promise<Wire[]> {
  const wires = await Promise.all([1, 2, 3, 4, 5, 6, 7].map(async () => await connect(t, service.port)))
  const [half, garbage, hello, length, reset, silent, last] = wires as [Wire, Wire, Wire, Wire, Wire, Wire, Wire]
  half.socket.write('GET /plain/half HTTP/1.1\r\nHost: x\r\nX-Ha')
  garbage.socket.write('\0\x01\x02 no HTTP at all\r\n\r\n')
  // TLS to a server that has none.
  hello.socket.write(Buffer.from('16030100fa0100', 'hex'))
  length.socket.write(`${UPLOAD}Content-Length: many\r\n\r\n`)
  reset.socket.write('GET /plain/reset HTTP/1.1\r\n')
  const bad = [garbage, hello, length]
  t.strictSame(await ends(bad), ['FIN', 'FIN', 'FIN'])
  t.strictSame(bad.flatMap(({ statuses }) => statuses), [400, 400, 400])
  reset.socket.resetAndDestroy()
  // Whoever is answered after the others have come has come after them in the server, too.
  last.get('/plain/last', 'Connection: close\r\n')
  t.equal(await last.ended, 'FIN')
  t.match(last.text, /^HTTP\/1\.1 200 OK\r\n[^]*last$/)
  return [half, silent]
}

/** Clients whose requests never come to their end. Resolves when the service has them all in flight. */
async function stall (t: Test, service: Service): Promise<Wire[]> {
  const wires = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
  const [body, chunk, unread] = wires as [Wire, Wire, Wire]
  body.socket.write(`${UPLOAD}Content-Length: 100000\r\n\r\n${'u'.repeat(5000)}`)
  chunk.socket.write(`${UPLOAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n20\r\nhalf of a ch`)
  unread.get('/buffer')
  await unread.seen(/\r\n\r\n/)
  unread.socket.pause()
  await messages(service, 2, ({ arrived }) => arrived === '/upload')
  return wires
}

async function startProtocols (t: Test, env: Record<string, string>): Promise<Service> {
  return await start(t, 'process-protocols', { env })
}

async function ends (wires: Wire[]): Promise<string[]> {
  return await Promise.all(wires.map(({ ended }) => ended))
}

/** Resolves when so many messages that match have come. */
async function messages (service: Service, count: number, match: (message: any) => boolean): Promise<void> {
  await service.message(() => service.messages.filter(match).length >= count)
}

/** Resolves when each of these handlers waits. */
async function holds (service: Service, ...names: string[]): Promise<void> {
  await Promise.all(names.map(async name => await service.message(({ held }) => held === name)))
}

function endedWell (t: Test, { code, signal, report, exitedAtMs, stderr }: Exit, requests: object): void {
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cutCount: 0, errors: [], requests })
  t.strictSame(report?.cut, [])
  t.ok(exitedAtMs < SOON_MS, 'and nothing was waited for')
  t.notMatch(stderr, /Error/)
}
