// Whatever a service answers with (past Fastify, through a proxy, from a file, in another protocol) is whole at a stop.

import { createHash, randomFillSync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import WebSocket from 'ws'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, NO_WAIT, SHORT, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS, type Wire
} from '../fixtures/process-client.js'
import { start, type Exit, type Service } from '../support/service.js'

t.jobs = 4

/** A machine may be slow. Less than any deadline of the defaults, so whoever is waited for shows. */
const SOON_MS = 15_000
/** Draining until a second signal, and time enough after it. */
const UNTIL_SIGINT = { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' }
const CLOSES = /^connection: close\r$/im
const UPGRADE = 'Connection: Upgrade\r\nUpgrade: echo\r\n'

t.test('answers past Fastify that have begun at the signal are ended by their handler, then their connection ends', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: NO_WAIT })
  const names = ['/hijack-begun/a', '/raw-begun/b', '/hints/c'] as const
  const wires = await Promise.all(names.map(async name => (await connect(t, service.port)).get(name)))
  const [hijacked, raw, hinted] = wires as [Wire, Wire, Wire]
  await Promise.all([hijacked.seen(/begun/), raw.seen(/begun/), hinted.seen(/103 Early Hints/)])
  service.kill('SIGTERM')
  await service.line(isClosing)
  for (const name of ['a', 'b', 'c']) service.send(name)

  t.strictSame(await ends(wires), ['FIN', 'FIN', 'FIN'])
  t.match(hijacked.text, /begun, [^]*ended\r\n0\r\n\r\n$/, 'with its last chunk')
  t.match(raw.text, /\r\n\r\nbegun, ended$/)
  t.match(hinted.text, /200 OK\r\n[^]*after the hints$/)
  t.match(hinted.text.split('200 OK')[1], CLOSES, 'the hints are not the answer')
  endedWell(t, await service.exited, { inFlightAtSignal: 3, servedWhileDraining: 0 })
})

t.test('while draining, an answer that had begun keeps its connection, and the next one on it is the last', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: UNTIL_SIGINT })
  const paths = ['/hijack-begun/a', '/raw-begun/b', '/hijack/c', '/raw/d']
  const wires = await Promise.all(paths.map(async path => (await connect(t, service.port)).get(path)))
  const [hijacked, raw, later, rawLater] = wires as [Wire, Wire, Wire, Wire]
  await Promise.all([hijacked.seen(/begun/), raw.seen(/begun/), holds(service, 'c', 'd')])
  service.kill('SIGTERM')
  await service.line(isDraining)
  for (const name of ['a', 'b', 'c', 'd']) service.send(name)
  await Promise.all([hijacked.seen(/ended\r\n0\r\n\r\n$/), raw.seen(/ended$/)])
  for (const { text } of [hijacked, raw]) t.notMatch(text, CLOSES, 'its headers were out')
  hijacked.get('/hijack/e')
  raw.get('/hijack/f')
  await holds(service, 'e', 'f')
  for (const name of ['e', 'f']) service.send(name)

  t.strictSame(await ends(wires), ['FIN', 'FIN', 'FIN', 'FIN'])
  t.match(later.text, /^HTTP\/1\.1 200 [^]*hijacked$/)
  t.match(rawLater.text, /^HTTP\/1\.1 202 [^]*raw/)
  for (const { text } of wires) t.match(text, CLOSES)
  for (const { text } of [hijacked, raw]) t.match(text, /ended[^]*HTTP\/1\.1 200 [^]*hijacked$/)
  t.notOk(service.lines.some(isClosing))
  service.kill('SIGINT')
  endedWell(t, await service.exited, { inFlightAtSignal: 4, servedWhileDraining: 2 })
})

t.test('while draining, an answer whose handler insists on keep-alive is the last of its connection all the same', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: UNTIL_SIGINT })
  const shapes = ['object', 'list', 'pairs']
  const before = await Promise.all(shapes.map(async shape => (await connect(t, service.port)).get(`/insists/${shape}/before-${shape}`)))
  await holds(service, ...shapes.map(shape => `before-${shape}`))
  service.kill('SIGTERM')
  await service.line(isDraining)
  const after = await Promise.all(shapes.map(async shape => (await connect(t, service.port)).get(`/insists/${shape}/after-${shape}`)))
  await holds(service, ...shapes.map(shape => `after-${shape}`))
  for (const shape of shapes) {
    service.send(`before-${shape}`)
    service.send(`after-${shape}`)
  }

  await Promise.all([...before, ...after].map(async wire => { await wire.seen(/^X-Other: kept\r\n[^]*kept$/im) }))
  for (const { text } of [...before, ...after]) {
    t.match(text, CLOSES)
    t.notMatch(text, /keep-alive/i)
  }
  service.kill('SIGINT')
  t.strictSame(new Set(await ends([...before, ...after])), new Set(['FIN']))
  endedWell(t, await service.exited, { inFlightAtSignal: 3, servedWhileDraining: 3 })
})

t.test('upgraded connections talk on while draining, new ones are upgraded, and their owner ends them; none is a request', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: LONG_WAIT, args: ['upgrade'] })
  const old = await connect(t, service.port)
  await old.get('/plain/before').seen(/before$/)
  await upgrade(old)
  service.kill('SIGTERM')
  await service.line(isDraining)
  const fresh = await upgrade(await connect(t, service.port))
  for (const wire of [old, fresh]) {
    wire.socket.write('still there?')
    await wire.seen(/echo: still there\?/)
  }
  const refused = (await connect(t, service.port)).get('/refused', UPGRADE)
  t.equal(await refused.ended, 'FIN')
  t.match(refused.statuses, [403])
  t.notOk(service.lines.some(isClosing))

  service.kill('SIGINT')
  t.strictSame(await ends([old, fresh]), ['FIN', 'FIN'])
  for (const { text } of [old, fresh]) t.match(text, /goodbye$/, 'its owner has the last word')
  endedWell(t, await service.exited, { inFlightAtSignal: 0, servedWhileDraining: 0 })
})

for (const when of ['before', 'after']) {
  t.test(`protocols attached to 'connection' ${when} the plugin: HTTP behind a PROXY line is served, another one ends with its owner`, beside(), async t => {
    const service = await start(t, 'process-protocols', { env: UNTIL_SIGINT, args: [when] })
    const proxied = async () => {
      const wire = await connect(t, service.port)
      wire.socket.write('PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n')
      return wire
    }
    const [held, idle] = [(await proxied()).get('/held/h'), await proxied()]
    await idle.get('/plain/before').seen(/before$/)
    const own = await connect(t, service.port)
    own.socket.write('*')
    await Promise.all([own.seen(/\* hello\n/), holds(service, 'h')])
    service.kill('SIGTERM')
    await service.line(isDraining)
    const fresh = (await proxied()).get('/plain/fresh')
    own.socket.write('still there?')
    await own.seen(/\* still there\?/)
    t.equal(await fresh.ended, 'FIN')
    t.match(fresh.text, /^HTTP\/1\.1 200 [^]*connection: close\r\n[^]*fresh$/i)

    service.kill('SIGINT')
    t.strictSame(await ends([idle, own]), ['FIN', 'FIN'])
    t.match(own.text, /goodbye\n$/)
    service.send('h')
    t.equal(await held.ended, 'FIN')
    t.match(held.text, /^HTTP\/1\.1 200 [^]*connection: close\r\n[^]*h is answered$/i)
    endedWell(t, await service.exited, { inFlightAtSignal: 1, servedWhileDraining: 1 })
  })
}

t.test('Expect: 100-continue: who was told to go on is read and answered, also when the body comes after the signal', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: NO_WAIT })
  const [half, none] = [await connect(t, service.port), await connect(t, service.port)]
  for (const wire of [half, none]) {
    wire.socket.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n')
    await wire.seen(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  }
  half.socket.write('u'.repeat(50_000))
  await service.message(({ arrived }) => arrived === '/upload')
  service.kill('SIGTERM')
  await service.line(isClosing)
  half.socket.write('u'.repeat(50_000))
  none.socket.write('u'.repeat(100_000))

  t.strictSame(await ends([half, none]), ['FIN', 'FIN'])
  for (const { statuses, text } of [half, none]) {
    t.strictSame(statuses, [100, 200])
    t.match(text, /200 OK\r\n[^]*connection: close\r\n[^]*got 100000$/i)
  }
  endedWell(t, await service.exited, { inFlightAtSignal: 2, servedWhileDraining: 0 })
})

t.test('while draining, Expect: 100-continue and half an upload are served as ever', beside(), async t => {
  const service = await start(t, 'process-protocols', { env: LONG_WAIT })
  const wires = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
  const [before, half, after] = wires as [Wire, Wire, Wire]
  const upload = 'POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n'
  before.socket.write(`${upload}Expect: 100-continue\r\n\r\n`)
  await before.seen(/100 Continue\r\n\r\n$/)
  half.socket.write(`${upload}\r\n12345`)
  await messages(service, 2, ({ arrived }) => arrived === '/upload')
  service.kill('SIGTERM')
  await service.line(isDraining)
  after.socket.write(`${upload}Expect: 100-continue\r\n\r\n`)
  await after.seen(/100 Continue\r\n\r\n$/)
  half.socket.write('67890')
  for (const wire of [before, after]) wire.socket.write('1234567890')

  t.strictSame(await ends(wires), ['FIN', 'FIN', 'FIN'])
  t.strictSame(wires.map(({ statuses }) => statuses), [[100, 200], [200], [100, 200]])
  for (const { text } of wires) t.match(text, /200 OK\r\n[^]*connection: close\r\n[^]*got 10$/i)
  service.kill('SIGINT')
  endedWell(t, await service.exited, { inFlightAtSignal: 2, servedWhileDraining: 1 })
})

for (const [mode, env, moved] of [['closing', NO_WAIT, isClosing], ['draining', UNTIL_SIGINT, isDraining]] as const) {
  t.test(`${mode}: trailers of a request and of its answer arrive, whenever they are sent`, beside(), async t => {
    const service = await start(t, 'process-protocols', { env })
    const [early, late] = [await connect(t, service.port), await connect(t, service.port)]
    const begin = (name: string) => `POST /trailers/${name} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n`
    const end = '0\r\nx-sum: 5 letters\r\n\r\n'
    early.socket.write(begin('early') + end)
    late.socket.write(begin('late'))
    await Promise.all([holds(service, 'early'), service.message(({ arrived }) => arrived === '/trailers/late')])
    service.kill('SIGTERM')
    await service.line(moved)
    service.send('early')
    late.socket.write(end)
    service.send('late')

    t.strictSame(await ends([early, late]), ['FIN', 'FIN'])
    for (const [name, { text }] of [['early', early], ['late', late]] as const) {
      t.match(text, CLOSES)
      t.match(text, new RegExp(`got 5 and 5 letters\r\n0\r\nx-end: ${name} ends\r\n\r\n$`))
    }
    if (mode === 'draining') service.kill('SIGINT')
    endedWell(t, await service.exited, { inFlightAtSignal: 2, servedWhileDraining: 0 })
  })

  t.test(`${mode}: answers without a body (HEAD, 204, 304) end their connection`, beside(), async t => {
    const service = await start(t, 'process-protocols', { env })
    const wires = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
    const [head, noContent, notModified] = wires as [Wire, Wire, Wire]
    head.socket.write('HEAD /held/head HTTP/1.1\r\nHost: x\r\n\r\n')
    noContent.get('/204/empty')
    notModified.get('/304/same', 'If-None-Match: "x"\r\n')
    await holds(service, 'head', 'empty', 'same')
    service.kill('SIGTERM')
    await service.line(moved)
    const after: Wire[] = []
    if (mode === 'draining') {
      after.push((await connect(t, service.port)).get('/204/later'), (await connect(t, service.port)).get('/304/still'))
      await holds(service, 'later', 'still')
    }
    for (const name of ['head', 'empty', 'same', 'later', 'still']) service.send(name)

    t.strictSame(new Set(await ends([...wires, ...after])), new Set(['FIN']))
    t.strictSame([...wires, ...after].map(({ statuses }) => statuses), [[200], [204], [304], [204], [304]].slice(0, 3 + after.length))
    for (const { text } of [...wires, ...after]) {
      t.match(text, CLOSES)
      t.match(text, /^[^]*\r\n\r\n$/, 'without a body')
    }
    if (mode === 'draining') service.kill('SIGINT')
    endedWell(t, await service.exited, { inFlightAtSignal: 3, servedWhileDraining: after.length })
  })

  t.test(`${mode}: a file of 30 MB (@fastify/static) and a range of it arrive whole, however slowly they are read`, beside(), async t => {
    const folder = t.testdir()
    const file = randomFillSync(Buffer.alloc(30e6))
    writeFileSync(join(folder, 'large.bin'), file)
    const service = await start(t, 'process-protocols', { env, args: ['static', folder] })
    const range = [5e6, 29e6] as const
    const [whole, part] = [new Download(await connect(t, service.port)), new Download(await connect(t, service.port))]
    whole.wire.get('/files/large.bin')
    part.wire.get('/files/large.bin', `Range: bytes=${range.join('-')}\r\n`)
    await Promise.all([whole.begun, part.begun])
    service.kill('SIGTERM')
    await service.line(moved)
    t.notOk(whole.wire.bytes >= 25e6 || part.wire.bytes >= 20e6, 'most of it is still to come')
    if (mode === 'draining') {
      const fresh = new Download(await connect(t, service.port))
      fresh.wire.get('/files/large.bin', `Range: bytes=${range.join('-')}\r\n`)
      await fresh.begun
      fresh.readOn()
      await fresh.wire.seen(CLOSES)
      // What remains is read after draining has ended.
      service.kill('SIGINT')
      await service.line(isClosing)
      t.strictSame([await fresh.wire.ended, fresh.hash], ['FIN', hashOf(file.subarray(range[0], range[1] + 1))])
    }
    whole.readOn()
    part.readOn()

    t.strictSame(await ends([whole.wire, part.wire]), ['FIN', 'FIN'])
    t.strictSame([whole.wire.statuses[0], part.wire.statuses[0]], [200, 206])
    t.equal(whole.hash, hashOf(file))
    t.equal(part.hash, hashOf(file.subarray(range[0], range[1] + 1)))
    endedWell(t, await service.exited, { inFlightAtSignal: 2, servedWhileDraining: mode === 'draining' ? 1 : 0 })
  })

  t.test(`${mode}: proxied requests in flight (@fastify/http-proxy) are answered by the upstream, each counted once`, beside(), async t => {
    const service = await start(t, 'process-proxy', { env })
    const wires = await Promise.all(['/up/held/a', '/up/stream/b', '/up/held/c'].map(async path => {
      const wire = await connect(t, service.port)
      if (path === '/up/held/c') wire.socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\n12345`)
      else wire.get(path)
      return wire
    }))
    const [held, stream, upload] = wires as [Wire, Wire, Wire]
    await Promise.all([holds(service, 'a', 'b', 'c'), stream.seen(/begun/)])
    service.kill('SIGTERM')
    await service.line(moved)
    const after: Wire[] = []
    if (mode === 'draining') after.push((await connect(t, service.port)).get('/up/plain/d'), (await connect(t, service.port)).get('/up/plain/e'))
    upload.socket.write('67890')
    for (const name of ['a', 'b', 'c']) service.send(name)

    await Promise.all([held.seen(/a is answered, got 0$/), stream.seen(/\r\n0\r\n\r\n$/), upload.seen(/c is answered, got 10$/)])
    for (const wire of after) await wire.seen(/^HTTP\/1\.1 200 [^]*[de] is answered, got 0$/)
    if (mode === 'draining') service.kill('SIGINT')
    t.strictSame(new Set(await ends([...wires, ...after])), new Set(['FIN']))
    t.strictSame([...wires, ...after].flatMap(({ statuses }) => statuses), Array(3 + after.length).fill(200))
    t.match(stream.text, /begun, [^]*b is answered, got 0\r\n0\r\n\r\n$/)
    endedWell(t, await service.exited, { inFlightAtSignal: 3, servedWhileDraining: after.length })
  })
}

t.test('while draining, a proxied answer is the last of its connection, whatever the upstream says of its own', beside(), async t => {
  const service = await start(t, 'process-proxy', { env: UNTIL_SIGINT })
  const before = (await connect(t, service.port)).get('/up/held/a')
  await holds(service, 'a')
  service.kill('SIGTERM')
  await service.line(isDraining)
  const after = (await connect(t, service.port)).get('/up/plain/b')
  service.send('a')

  await Promise.all([before.seen(/a is answered, got 0$/), after.seen(/b is answered, got 0$/)])
  for (const { text } of [before, after]) {
    t.match(text, CLOSES)
    t.notMatch(text, /keep-alive/i)
  }
  service.kill('SIGINT')
  t.strictSame(await ends([before, after]), ['FIN', 'FIN'])
  endedWell(t, await service.exited, { inFlightAtSignal: 1, servedWhileDraining: 1 })
})

t.test('WebSockets by way of @fastify/http-proxy talk on while draining, are closed after it, and hold nothing', beside(), async t => {
  const service = await start(t, 'process-proxy', { env: LONG_WAIT })
  const client = await webSocket(t, service.port)
  service.kill('SIGTERM')
  await service.line(isDraining)
  const fresh = await webSocket(t, service.port)
  for (const one of [client, fresh]) t.equal(await one.ask('still there?'), 'echo: still there?')
  service.kill('SIGINT')

  t.notOk((await Promise.all([client.closed, fresh.closed])).includes(1006), 'with a close frame')
  endedWell(t, await service.exited, { inFlightAtSignal: 0, servedWhileDraining: 0 })
})

t.test('a WebSocket by way of @fastify/http-proxy whose client is silent is cut in time, and named', beside(), async t => {
  const service = await start(t, 'process-proxy', { env: SHORT })
  const wire = (await connect(t, service.port)).get('/up/socket', 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n')
  await wire.seen(/^HTTP\/1\.1 101 /)
  service.kill('SIGTERM')

  t.not(await wire.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS && exitedAtMs < SHORT_STOP_TIMEOUT_MS, `${exitedAtMs} ms`)
  t.match(report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'connection', name: 'an upgraded connection' }], errors: [] })
  t.ok(lines.some(hasClosed), 'onClose has run')
})

/** An answer that is read as slowly as the test wants, and of which no byte is kept. */
class Download {
  readonly wire: Wire
  /** Resolves when the headers have come. From then on nothing is read. */
  readonly begun: Promise<void>
  readonly #hash = createHash('sha256')
  #head = ''

  constructor (wire: Wire) {
    this.wire = wire
    this.begun = new Promise(resolve => {
      wire.socket.on('data', (chunk: string) => {
        if (this.#head.includes('\r\n\r\n')) {
          this.#hash.update(chunk, 'latin1')
          return
        }
        this.#head += chunk
        const end = this.#head.indexOf('\r\n\r\n')
        if (end < 0) return
        this.#hash.update(this.#head.slice(end + 4), 'latin1')
        wire.socket.pause()
        resolve()
      })
    })
  }

  readOn (): void {
    const { socket } = this.wire
    socket.on('data', () => {
      socket.pause()
      setImmediate(() => socket.resume())
    })
    socket.resume()
  }

  get hash (): string {
    return this.#hash.digest('hex')
  }
}

function hashOf (bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function webSocket (t: Test, port: number) {
  const client = new WebSocket(`ws://127.0.0.1:${port}/up/socket`)
  t.teardown(() => { client.terminate() })
  const closed = new Promise<number>(resolve => client.on('close', resolve))
  await new Promise((resolve, reject) => client.on('open', resolve).on('error', reject))
  return {
    closed,
    ask: async (text: string) => await new Promise<string>(resolve => {
      client.once('message', data => { resolve(String(data)) })
      client.send(text)
    })
  }
}

async function upgrade (wire: Wire): Promise<Wire> {
  wire.get('/socket', UPGRADE)
  await wire.seen(/HTTP\/1\.1 101 [^]*\r\n\r\n/)
  return wire
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
