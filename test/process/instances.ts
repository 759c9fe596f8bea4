// Several Fastify instances in one process: they stop together, and the last one ends the process.

import { cp, symlink } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { beside, connect, hasClosed, isClosing, NO_WAIT } from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 3

async function stopsTogether (t: Test, copy?: string): Promise<void> {
  const service = await start(t, 'process-instances', { env: { ...NO_WAIT, COPY: copy }, coverage: false })
  const { ports, isCopy, before, after } = await service.message(({ ports }) => ports !== undefined)
  t.equal(isCopy, copy !== undefined)
  const added = Object.fromEntries(Object.entries(after as Record<string, number>).map(([event, count]) => [event, count - (before[event] ?? 0)]))
  t.match(added, { SIGTERM: 1, SIGINT: 1, uncaughtException: 1, unhandledRejection: 1 }, 'one set of listeners')

  const slow = (await connect(t, ports[0])).get('/held')
  const idle = await connect(t, ports[1])
  await service.message(({ held }) => held === 'request 0')
  service.kill('SIGTERM')
  t.equal(await idle.ended, 'FIN')
  await service.line(({ app, report }) => app === 1 && report !== undefined)
  t.ok(service.lines.some(line => line.app === 0 && isClosing(line)), 'both stop')
  t.notOk(service.lines.some(line => line.app === 0 && hasClosed(line)), 'one waits for its request')
  service.send('request 0')

  t.equal(await slow.ended, 'FIN')
  t.match(slow.text, /answer 0$/)
  const { code, signal, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  const reports = lines.filter(({ report }) => report !== undefined)
  t.match(reports, [{ app: 1, report: { exitCode: 0 } }, { app: 0, report: { exitCode: 0 } }], 'each has its report')
  t.equal(reports.length, 2)
  t.equal(lines.filter(hasClosed).length, 2, 'both have run onClose')
}

t.test('two instances stop together, and the process ends with the slower one', beside(), async t => {
  await stopsTogether(t)
})

t.test('so do two instances with two copies of the package', beside(), async t => {
  const folder = t.testdir()
  await cp('lib', join(folder, 'lib'), { recursive: true })
  await symlink(resolve('node_modules'), join(folder, 'node_modules'))
  await stopsTogether(t, pathToFileURL(join(folder, 'lib/index.ts')).href)
})

t.test('an instance that was closed before the signal holds nobody up', beside(), async t => {
  const service = await start(t, 'process-closedone', { env: NO_WAIT })
  const wire = (await connect(t, service.port)).get('/held')
  await service.message(({ held }) => held === 'request')
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('request')
  t.equal(await wire.ended, 'FIN')
  const { code, signal, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(lines.filter(({ report }) => report).map(({ report }) => report.reason), ['fastify.close()', 'SIGTERM'])
})
