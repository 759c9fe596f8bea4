// HTTP/2, over TLS and without: who is let go with GOAWAY, and when.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:http2'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import {
  atLeast, beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS, type Wire
} from '../fixtures/process-client.js'
import {
  Answer, connectBare, connectTls, Frames, HALF_A_HELLO, holds, join, ONE_MORE, PREFACE, PROTOCOLS, request, SETTINGS
} from '../fixtures/process-http2client.js'
import { start, type Exit } from '../support/service.js'

const H2LOAD = '/usr/bin/h2load'
/** A machine may be slow. Less than any deadline of the defaults, so whoever is waited for shows. */
const SOON_MS = 15_000

/** A deadline after 7 s: whoever must hold nothing ends well before. */
const NOT_LONG = { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '8', FARGATE_MARGIN: '1' }
// Other systems have no 127.0.0.2 until they are given one.
const skip = process.platform !== 'linux' && 'a second loopback address is needed'

t.jobs = 4

for (const protocol of PROTOCOLS) {
  t.test(`${protocol}: idle sessions get GOAWAY and hold nothing; streams in flight complete first`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: NO_WAIT, args: [protocol] })
    const unused = await join(t, protocol, service.port)
    const idle = await join(t, protocol, service.port)
    t.equal(await idle.get('/plain/before').ended, 'whole')
    const busy = await join(t, protocol, service.port)
    const answers = [busy.get('/held/a'), busy.get('/held/b'), busy.get('/stream/c')]
    const [, second, stream] = answers as [Answer, Answer, Answer]
    await holds(service, 'a', 'b', 'c')
    await stream.seen(/begun/)
    service.kill('SIGTERM')

    t.strictSame([await unused.ended, await idle.ended], ['GOAWAY 0', 'GOAWAY 0'], 'while others are in flight')
    t.notOk(service.lines.some(hasClosed), 'onClose waits for those')
    service.send('b')
    t.equal(await second.ended, 'whole')
    service.send('a')
    service.send('c')
    t.strictSame(await Promise.all(answers.map(({ ended }) => ended)), ['whole', 'whole', 'whole'])
    t.strictSame(answers.map(({ status }) => status), [200, 200, 200])
    t.strictSame(answers.map(({ body }) => body), ['a is answered', 'b is answered', 'begun, ended'])
    t.equal(await busy.ended, 'GOAWAY 0')
    for (const { headers } of answers) t.notOk('connection' in headers)
    const exit = await service.exited
    endedWell(t, exit)
    t.match(exit.report, { reason: 'SIGTERM', requests: { inFlightAtSignal: 3, servedWhileDraining: 0 } })
    t.ok(exit.lines.some(hasClosed), 'onClose has run')
  })

  t.test(`${protocol}: while draining new streams are served, on old and new sessions, and none gets GOAWAY`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' }, args: [protocol] })
    const old = await join(t, protocol, service.port)
    t.equal(await old.get('/plain/before').ended, 'whole')
    const before = old.get('/held/before')
    await holds(service, 'before')
    service.kill('SIGTERM')
    await service.line(isDraining)
    const fresh = await join(t, protocol, service.port)
    const probe = old.get('/health/ready')
    service.send('before')
    const answers = [old.get('/plain/old'), fresh.get('/plain/fresh'), before]

    t.strictSame(await Promise.all([probe, ...answers].map(({ ended }) => ended)), ['whole', 'whole', 'whole', 'whole'])
    t.strictSame(answers.map(({ status, body }) => [status, body]), [[200, 'old'], [200, 'fresh'], [200, 'before is answered']])
    t.match(probe, { status: 503, body: /draining/ }, 'readiness says 503')
    // Once more: whatever was sent with the first answers has come before the second ones.
    const again = [old.get('/plain/again'), fresh.get('/plain/again')]
    t.strictSame(await Promise.all(again.map(({ ended }) => ended)), ['whole', 'whole'])
    t.strictSame([old, fresh].map(({ goaway }) => goaway), [undefined, undefined], 'no GOAWAY yet')
    t.notOk(service.lines.some(isClosing))
    const last = fresh.get('/held/last')
    await holds(service, 'last')
    for (const { headers } of [probe, ...answers, ...again]) t.notOk('connection' in headers)

    service.kill('SIGINT')
    t.equal(await old.ended, 'GOAWAY 0', 'it comes when draining has ended')
    service.send('last')
    t.strictSame([await last.ended, last.status, last.body], ['whole', 200, 'last is answered'])
    t.equal(await fresh.ended, 'GOAWAY 0')
    const exit = await service.exited
    endedWell(t, exit)
    t.match(exit.report, { requests: { inFlightAtSignal: 1, servedWhileDraining: 5 } })
  })

  t.test(`${protocol}: a stream without end, and one whose client takes no byte of its answer, are cut in time and named`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: SHORT, args: [protocol] })
    const endless = await join(t, protocol, service.port)
    const stream = endless.get('/stream/endless?token=secret')
    await stream.seen(/begun/)
    // Not a single byte of a body, ever.
    const closed = await join(t, protocol, service.port, { settings: { initialWindowSize: 0 } })
    const unread = closed.get('/buffer')
    await unread.seen(/^$/)
    const other = endless.get('/held/other')
    await holds(service, 'endless', 'other')
    service.kill('SIGTERM')
    await service.line(isClosing)
    service.send('other')
    t.strictSame([await other.ended, other.status, other.body], ['whole', 200, 'other is answered'], 'on the same session')

    const { code, signal, report, lines, exitedAtMs, stderr } = await service.exited
    t.equal(await stream.ended, `RST_STREAM ${constants.NGHTTP2_CANCEL}`)
    t.not(await unread.ended, 'whole')
    t.strictSame([code, signal], [1, null])
    t.ok(exitedAtMs >= SHORT_DEADLINE_MS, 'the answer has until the deadline')
    t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'before the stop timeout')
    t.ok(lines.some(hasClosed), 'onClose has run')
    const cut = [
      { kind: 'stream', name: 'GET /stream/:name', path: '/stream/endless', requestId: /^req-/, remoteAddress: '127.0.0.1' },
      { kind: 'response', name: 'GET /buffer', path: '/buffer', requestId: /^req-/, remoteAddress: '127.0.0.1' }
    ]
    t.match(report, { exitCode: 1, cutCount: 2, cut, errors: [] })
    t.equal(report?.cut.length, 2)
    t.ok(report?.cut[0].ageMs >= SHORT_STREAM_LIMIT_MS, 'not before the limit for streams')
    t.strictSame(lines.filter(names).map(({ holders }) => holders.length), [1, 1], 'each in its own time')
    t.notMatch(stderr, /Warning/)
  })

  t.test(`${protocol}: clients that misbehave cost nobody else an answer, and hold nothing`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: NO_WAIT, args: [protocol] })
    const good = await join(t, protocol, service.port)
    const answer = good.get('/held/good')
    const wires = await Promise.all([1, 2, 3, 4].map(async () => await connectBare(t, protocol, service.port)))
    const [silent, half, garbage, upload] = wires as [Wire, Wire, Wire, Wire]
    half.socket.write(PREFACE.slice(0, 10))
    garbage.socket.write('GET /plain/garbage HTTP/1.1\r\nHost: x\r\n\r\n')
    // A HEADERS frame of which only the length has come.
    upload.socket.write(PREFACE + SETTINGS + '\0\0\x20\x01', 'latin1')
    const hello = await connect(t, service.port)
    hello.socket.write(HALF_A_HELLO)
    const reset = good.get('/held/reset')
    // Half a body, whose answer does not wait for the other half.
    const refused = good.session.request({ ':method': 'POST', ':path': '/upload', 'content-type': 'text/plain' })
    refused.write('half')
    await new Answer(refused).seen(/refused/)
    const gone = await join(t, protocol, service.port)
    const lost = [gone.get('/held/lost'), gone.get('/stream/gone')]
    const cut = await join(t, protocol, service.port)
    lost.push(cut.get('/held/cut'))
    await holds(service, 'good', 'reset', 'lost', 'gone', 'cut')
    await lost[1]!.seen(/begun/)
    service.kill('SIGTERM')
    await service.line(isClosing)
    reset.stream.close(constants.NGHTTP2_CANCEL)
    gone.plug.destroy()
    cut.plug.resetAndDestroy()

    for (const name of ['reset', 'lost', 'gone', 'cut']) service.send(name)
    for (const { ended } of [silent, half, garbage, upload, hello, ...lost, gone, cut, reset]) t.ok(await ended)
    service.send('good')
    t.strictSame([await answer.ended, answer.status, answer.body], ['whole', 200, 'good is answered'])
    t.equal(await good.ended, 'GOAWAY 0')
    const exit = await service.exited
    endedWell(t, exit)
    t.match(exit.report, { requests: { inFlightAtSignal: 5 } })
  })

  t.test(`${protocol}: an idle client that does not end its half of the connection holds nothing`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: NOT_LONG, args: [protocol] })
    const wires = await Promise.all([1, 2, 3].map(async () => await connectBare(t, protocol, service.port)))
    const [open, deaf, silent] = wires as [Wire, Wire, Wire]
    // GOAWAY and FIN come, and these clients do not care.
    for (const { socket } of wires) socket.allowHalfOpen = true
    open.socket.write(PREFACE + SETTINGS, 'latin1')
    deaf.socket.write(PREFACE + SETTINGS, 'latin1')
    for (const { socket } of [deaf, silent]) socket.pause()
    t.equal(await (await join(t, protocol, service.port)).get('/plain/last').ended, 'whole')
    service.kill('SIGTERM')
    endedWell(t, await service.exited)
  })

  t.test(`${protocol}: a reader that is slow gets its whole answer, on the second listener of localhost too`, { ...beside(), skip }, async t => {
    const service = await start(t, 'process-http2', { env: NO_WAIT, args: [protocol, 'localhost'] })
    const wires = await Promise.all(['127.0.0.1', '127.0.0.2'].map(async host => await connectBare(t, protocol, service.port, host)))
    const frames = wires.map(wire => new Frames(wire))
    for (const wire of wires) {
      wire.socket.write(request('/buffer'), 'latin1')
      await wire.seen(/bbb/)
      wire.socket.pause()
    }
    service.kill('SIGTERM')
    await service.line(isClosing)
    // A client of HTTP/2 talks while it reads. A server that has gone by then answers with a reset, and what it has sent is lost.
    // The second listener comes last: there is nobody else to keep the process.
    for (const [index, { socket, ended }] of wires.entries()) {
      let isNearTheEnd = false
      socket.on('data', () => {
        socket.write(ONE_MORE, 'latin1')
        socket.pause()
        // The rest has left the server.
        if (!isNearTheEnd && frames[index]!.bytes > 18.5e6) {
          isNearTheEnd = true
          void atLeast(300).then(() => socket.resume())
        } else setImmediate(() => socket.resume())
      })
      socket.resume()
      t.equal(await ended, 'FIN')
    }
    t.strictSame(frames.map(({ bytes, isWhole }) => [bytes, isWhole]), [[20e6, true], [20e6, true]])
    const exit = await service.exited
    endedWell(t, exit)
    t.match(exit.report, { requests: { inFlightAtSignal: 2 } })
  })

  t.test(`${protocol}: GOAWAY under load: every request that was taken is answered, any other may be sent again`, beside(), async t => {
    const service = await start(t, 'process-http2', { env: NO_WAIT, args: [protocol] })
    const sessions = await Promise.all(Array.from({ length: 5 }, async () => await join(t, protocol, service.port)))
    let whole = 0
    const odd: string[] = []
    await Promise.all(sessions.flatMap(one => Array.from({ length: 10 }, async () => {
      while (!one.session.closed && !one.session.destroyed) {
        const answer = one.get('/load')
        const how = await answer.ended
        if (how === 'whole' && answer.status === 200 && answer.body.length === 1000) whole++
        else if (answer.stream.id! <= (one.goaway?.last ?? Infinity)) odd.push(`${how} ${answer.status} ${answer.body.length} of ${answer.stream.id}, GOAWAY after ${one.goaway?.last}`)
        if (whole === 500) service.kill('SIGTERM')
      }
    })))
    t.strictSame(odd, [])
    t.strictSame(await Promise.all(sessions.map(({ ended }) => ended)), Array(5).fill('GOAWAY 0'))
    const exit = await service.exited
    endedWell(t, exit)
    t.equal(exit.lines.find(hasClosed)?.taken, whole)
  })
}

t.test('h2: with nothing but a stream without end onClose runs at the limit for streams', beside(), async t => {
  const service = await start(t, 'process-http2', { env: SHORT, args: ['h2'] })
  const session = await join(t, 'h2', service.port)
  const stream = session.get('/stream/endless')
  await stream.seen(/begun/)
  service.kill('SIGTERM')

  t.equal(await stream.ended, `RST_STREAM ${constants.NGHTTP2_CANCEL}`)
  t.equal(await session.ended, 'GOAWAY 0')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS)
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
  t.match(report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'stream', name: 'GET /stream/:name' }], errors: [] })
  t.ok(lines.findIndex(hasClosed) > lines.findIndex(names), 'onClose has run, after the stream was named')
})

t.test('h2: a client that agrees on no protocol holds nothing', beside(), async t => {
  const service = await start(t, 'process-http2', { env: NOT_LONG, args: ['h2'] })
  // Node tells it so, and ends its own half.
  const wire = await connectTls(t, service.port)
  wire.socket.allowHalfOpen = true
  await wire.seen(/403/)
  service.kill('SIGTERM')
  endedWell(t, await service.exited)
})

t.test('h2 or http/1.1: a client of HTTP/1.1 is told connection: close while draining, and an idle one is let go after it', beside(), async t => {
  const service = await start(t, 'process-http2', { env: { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' }, args: ['h2 or http/1.1'] })
  const wires = await Promise.all([1, 2, 3, 4].map(async () => await connectTls(t, service.port, { ALPNProtocols: ['http/1.1'] })))
  const [idle, silent, kept, held] = wires as [Wire, Wire, Wire, Wire]
  for (const wire of [idle, kept]) await wire.get('/plain/before').seen(/before$/)
  held.get('/held/h')
  const session = await join(t, 'h2 or http/1.1', service.port)
  await holds(service, 'h')
  service.kill('SIGTERM')
  await service.line(isDraining)
  kept.get('/plain/kept')
  const fresh = (await connectTls(t, service.port)).get('/plain/fresh')
  t.strictSame([await kept.ended, await fresh.ended], ['FIN', 'FIN'])
  t.match(fresh.text, /^HTTP\/1\.1 200 OK\r\n[^]*connection: close\r\n[^]*fresh$/i)
  t.match(kept.text, /before[^]*200 OK\r\n[^]*connection: close\r\n[^]*kept$/i)
  t.strictSame([await session.get('/plain/both').ended, session.goaway], ['whole', undefined])
  t.notOk(service.lines.some(isClosing))
  t.notOk(idle.socket.destroyed || silent.socket.destroyed, 'no idle one is ended while draining')

  service.kill('SIGINT')
  t.strictSame([await idle.ended, await silent.ended, await session.ended], ['FIN', 'FIN', 'GOAWAY 0'])
  service.send('h')
  t.equal(await held.ended, 'FIN')
  t.match(held.text, /^HTTP\/1\.1 200 OK\r\n[^]*connection: close\r\n[^]*h is answered$/i)
  const exit = await service.exited
  endedWell(t, exit)
  t.match(exit.report, { requests: { inFlightAtSignal: 1, servedWhileDraining: 3 } })
})

for (const protocol of ['h2c', 'h2'] as const) {
  t.test(`${protocol}: under the load of h2load no request is lost while draining`, {
    ...beside(),
    skip: !existsSync(H2LOAD) && `there is no ${H2LOAD}: apt-get install nghttp2-client`
  }, async t => {
    const service = await start(t, 'process-http2', { env: LONG_WAIT, args: [protocol] })
    const url = `${protocol === 'h2c' ? 'http' : 'https'}://127.0.0.1:${service.port}/gated`
    const load = promisify(execFile)(H2LOAD, ['-n', '4000', '-c', '10', '-m', '10', url])
    await holds(service, 'gate')
    service.kill('SIGTERM')
    await service.line(isDraining)
    service.send('gate')
    const { stdout } = await load

    t.match(stdout, /^requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout$/m)
    t.match(stdout, /^status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx$/m)
    t.notOk(service.lines.some(isClosing), 'it has ended before draining does')
    service.kill('SIGINT')
    const exit = await service.exited
    endedWell(t, exit)
    t.ok(exit.report?.requests.servedWhileDraining >= 3400, `${exit.report?.requests.servedWhileDraining} requests were served while draining`)
  })
}

function endedWell (t: Test, { code, signal, report, exitedAtMs, stderr }: Exit): void {
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cutCount: 0, errors: [] })
  t.strictSame(report?.cut, [])
  t.ok(exitedAtMs < SOON_MS, 'and nothing was waited for')
  // Node warns of a `connection` header over HTTP/2.
  t.notMatch(stderr, /UnsupportedWarning|Error/)
}
