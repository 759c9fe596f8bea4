// A stop signal before the service listens, as deployments that are rolled back send it.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { atLeast, beside, hasClosed, SHORT, SHORT_STOP_TIMEOUT_MS } from '../fixtures/process-client.js'
import { start, type Exit, type Line } from '../support/service.js'

t.jobs = 4

/** A transport with an asynchronous target, which takes its time for each line and for the last one. */
const slowTransport = `
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { Writable } from 'node:stream'
export default async () => new Writable({
  write (chunk, _encoding, done) { setTimeout(() => { appendFileSync(process.env.TRANSPORT_FILE, chunk); done() }, 20) }
})
`

const stops = ({ msg }: Line): boolean => /^SIGTERM: draining/.test(msg)

function endedWell (t: Test, { code, signal, report, lines, exitedAtMs }: Exit, messages: any[]): void {
  t.strictSame([code, signal], [0, null])
  t.match(report, { reason: 'SIGTERM', exitCode: 0, cut: [], errors: [] })
  t.ok(lines.some(hasClosed), 'onClose has run')
  t.notOk(messages.some(({ listens }) => listens), 'it never listened')
  t.notOk(lines.some(({ msg }) => /Server listening/.test(msg)))
  t.ok(exitedAtMs < 20_000)
}

for (const how of ['promise', 'callback']) {
  t.test(`SIGTERM while a plugin boots: it never listens, and the error of listen() (${how}) does not become the exit code`, beside(), async t => {
    const service = await start(t, 'process-boot', { ready: false, args: ['plugin', how] })
    await service.message(({ held }) => held === 'boot')
    service.kill('SIGTERM')
    await service.line(stops)
    service.send('boot')
    endedWell(t, await service.exited, service.messages)
  })
}

t.test('nor does it where the last lines take their time to be written', beside(), async t => {
  const folder = t.testdir({ 'transport.mjs': slowTransport })
  const service = await start(t, 'process-boot', {
    ready: false, args: ['plugin'], env: { TRANSPORT: join(folder, 'transport.mjs'), TRANSPORT_FILE: join(folder, 'log') }
  })
  await service.message(({ held }) => held === 'boot')
  service.kill('SIGTERM')
  await service.message(({ stops }) => stops)
  service.send('boot')
  const { code, signal } = await service.exited
  t.strictSame([code, signal], [0, null])
  const log = readFileSync(join(folder, 'log'), 'utf8')
  t.match(log, /onClose has run/)
  t.match(log.trim().split('\n').at(-1), /"report":/, 'the report is the last line')
})

t.test('SIGTERM after ready() and before listen(): it ends at once', beside(), async t => {
  const service = await start(t, 'process-boot', { ready: false, args: ['listen'] })
  await service.message(({ held }) => held === 'boot')
  service.kill('SIGTERM')
  endedWell(t, await service.exited, service.messages)
})

for (const how of ['promise', 'callback']) {
  t.test(`listen() (${how}) in the middle of a stop: it never listens, and the exit code stays 0`, beside(), async t => {
    const service = await start(t, 'process-boot', { ready: false, args: ['stop', how] })
    await service.message(({ held }) => held === 'boot')
    service.kill('SIGTERM')
    await service.message(({ held }) => held === 'stop')
    service.send('boot')
    // Long enough to listen, if it did.
    await atLeast(200)
    service.send('stop')
    endedWell(t, await service.exited, service.messages)
  })
}

t.test('SIGTERM while a plugin never finishes booting: exit 1 before the stop timeout', beside(), async t => {
  const service = await start(t, 'process-boot', { ready: false, args: ['hang'], env: SHORT })
  await service.message(({ boots }) => boots)
  service.kill('SIGTERM')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { reason: 'SIGTERM', exitCode: 1, cut: [{ kind: 'hook' }] })
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
})
