// Process 1 of a container: the kernel gives it no default action for signals.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { connect, isClosing, NO_WAIT } from '../fixtures/process-client.js'
import { start, type Line } from '../support/service.js'

const UNSHARE = ['unshare', '--pid', '--fork', '--mount-proc']

function needsUnshare (): string | false {
  const { status, stderr, error } = spawnSync(UNSHARE[0]!, [...UNSHARE.slice(1), 'true'], { encoding: 'utf8' })
  if (status === 0) return false
  const reason = `unshare is not permitted here: ${error?.message ?? stderr.trim()}`
  console.warn(`NOT TESTED as process 1: ${reason}`)
  return reason
}

const skip = needsUnshare()

/** The process that unshare has forked. */
function forked (pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim())
}

t.test('as process 1 SIGTERM ends the service with 0, its request in flight answered', { skip }, async t => {
  const service = await start(t, 'process-service', { wrapper: UNSHARE, env: NO_WAIT })
  const wire = (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  t.match(service.lines[0], { pid: 1 })
  process.kill(forked(service.pid), 'SIGTERM')
  await service.line(isClosing)
  service.send('a')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /a is answered$/)
  t.match(await service.exited, { code: 0, signal: null, report: { reason: 'SIGTERM', exitCode: 0 } })
})

t.test('a shell as process 1, which keeps SIGTERM to itself, is warned about', { skip }, async t => {
  const service = await start(t, 'process-service', {
    wrapper: argv => [...UNSHARE, 'sh', '-c', `${argv.map(arg => `'${arg}'`).join(' ')}; exit $?`],
    env: { ...NO_WAIT, ECS_CONTAINER_METADATA_URI_V4: 'http://127.0.0.1:1/v4' }
  })
  const isWarning = ({ level, msg }: Line): boolean => level === 40 && /Process 1 of this container is "sh -c/.test(msg)
  t.ok(await service.line(isWarning))
})
