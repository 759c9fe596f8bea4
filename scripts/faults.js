// Deliberate faults in lib/, each of which the simulation has to find: `npm run test:faults`.
// `npm run test:faults -- 3 4` tries some of them.
// `npm run test:faults -- apply 3` applies the third one to the working tree, to see which other tests go red
// (`git checkout lib` takes it back).

import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

const faults = [
  ['readiness stays 200 while draining',
    'lib/probes.ts', "case 'ready': return", "case 'draining': case 'ready': return"],
  ['closing begins without a wait for the load balancer',
    'lib/sequence.ts', "isListening ? await this.#untilLetGo() : 'nothing listens here'", "'at once'"],
  ['silence is judged without the floor `quiet`',
    'lib/deregistration/silence.ts', 'Math.max(floorMs, FACTOR * usualMs)', 'FACTOR * usualMs'],
  ['a request that waits for its answer does not keep draining from ending',
    'lib/deregistration/silence.ts', 'inFlight > 0 ? Infinity : evidenceAt(situation)', 'evidenceAt(situation)'],
  ['the listener is closed when draining begins',
    'lib/sequence.ts', "lifecycle.move('draining', reason)\n", "lifecycle.move('draining', reason)\n      sockets.stopAccepting()\n"],
  ['busy connections are released too',
    'lib/sockets.ts', '!this.#isReleasing || connection.isBusy', '!this.#isReleasing'],
  ['every response in progress is cut at the limit for streams',
    'lib/requests.ts', 'if (!isStream(exchange.res)) continue\n', ''],
  ['streams are cut at the abort mark',
    'lib/timeline.ts', 'streamLimit: ms(deadline - config.abortGrace / 2)', 'streamLimit: ms(deadline - config.abortGrace)'],
  ['a cut does not make the exit code 1',
    'lib/report.ts', 'exitCode: cutCount > 0 || errors.length > 0 ? 1 : 0', 'exitCode: errors.length > 0 ? 1 : 0'],
  ['an error that nobody caught ends the process in the middle of the stop',
    'lib/coordinator.ts', 'if (this.#stop !== undefined) return\n    const { crash }', 'if (this.#stop !== undefined) return this.#host.exit(1)\n    const { crash }'],
  ['a second signal is ignored: nothing is hastened, and the third one is the second',
    'lib/coordinator.ts', /for \(const member of this.#members\) member.hasten\(.*/, ''],
  ['the same signal within 250 ms counts twice',
    'lib/coordinator.ts', 'isSame && now - this.#lastSignalAt < SAME_SIGNAL_MS', 'isSame && now - this.#lastSignalAt < 0'],
  ['hooks and jobs are not waited for',
    'lib/sequence.ts', 'pending.size > 0 || (requests.unanswered > 0', 'false || (requests.unanswered > 0'],
  ['a hook that throws is nobody\'s business',
    'lib/hooks.ts', 'this.#onError(name, error)', ''],
  ['the deadline is not kept',
    'lib/countdown.ts', "const MARKS = ['drainLimit', 'abort', 'streamLimit', 'deadline'] as const", "const MARKS = ['drainLimit', 'abort', 'streamLimit'] as const", /type Mark = .*/, "type Mark = 'drainLimit' | 'abort' | 'streamLimit' | 'deadline'"],
  ['the ticks of the arrivals go on after the end',
    'lib/requests.ts', '    this.#arrivals.stop()\n    this.#cancelForgetting?.()', '    this.#cancelForgetting?.()'],
  ['probes count as traffic',
    'lib/requests.ts', '    this.ignore(raw)\n', ''],
  ['WebSocket clients are told while draining, whatever the setting',
    'lib/sequence.ts', "if (config.websocketClose === 'draining') void", 'void'],
  ['fastify.close() does not wait until WebSocket clients have been told',
    'lib/sequence.ts', 'Promise.all([released, isClosing || this.#tellWebSockets(true)])', 'released)\n    void (isClosing || this.#tellWebSockets(true)'],
  ['a WebSocket client has no time to answer its close frame',
    'lib/timeline.ts', 'goodbyeGrace: ms(config.closeReserve / 2)', 'goodbyeGrace: 0'],
  ['requests before the signal count as served while draining',
    'lib/requests.ts', 'isWhole(res) && at > this.#drainingSince', 'isWhole(res)'],
  ['the first instance that has closed ends the process',
    'lib/coordinator.ts', 'await Promise.all(left.map', 'await Promise.race(left.map', 'for (const report of reports) exitCode', 'for (const report of [reports].flat()) exitCode'],
  ['jobs are no holders',
    'lib/work.ts', /entry: pending\.begin\(.*?\), timeoutMs/, "entry: { kind: 'job', name, since: 0 }, timeoutMs"],
  ['a job that fails during the stop is nobody\'s business',
    'lib/work.ts', 'else fail(where, error)', ''],
  ['workers are not told to stop',
    'lib/work.ts', 'for (const worker of this.#workers) void this.#stop(worker, context)', ''],
  ['a plain fastify.close() does not wait for jobs',
    'lib/sequence.ts', 'await sleep(clock, limitMs, pending.settled())', '']
]

function apply (folder, [, file, ...changes]) {
  const path = join(folder, file)
  let text = readFileSync(path, 'utf8')
  for (let i = 0; i < changes.length; i += 2) {
    const after = text.replace(changes[i], () => changes[i + 1])
    if (after === text) throw new Error(`${file} has no ${changes[i]}: the list of faults wants an update`)
    text = after
  }
  writeFileSync(path, text)
}

const [command, number] = process.argv.slice(2)
const wanted = process.argv.slice(2).map(Number)
if (command === 'apply') {
  apply(root, faults[number - 1])
  console.log(`${number}. ${faults[number - 1][0]}: applied to ${faults[number - 1][1]}`)
} else {
  let seen = 0
  let unseen = 0
  faults.forEach((fault, index) => {
    if (wanted.length > 0 && !wanted.includes(index + 1)) return
    const folder = mkdtempSync(join(tmpdir(), 'fastify-fargate-fault-'))
    try {
      for (const name of ['lib', 'test', 'types', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true })
      symlinkSync(resolve(root, 'node_modules'), join(folder, 'node_modules'))
      apply(folder, fault)
      const { status, stdout, stderr } = spawnSync(process.execPath,
        ['--import=./test/support/typescript.js', 'test/simulation/run.ts', process.env.SIMULATION_RUNS ?? '5000', '20261124'],
        { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 26, timeout: 600_000 })
      const said = /Got (?:\w+Error)?(?: \[\w+\])?:? ?([^\n]*?)(?: {2,}|\n|$)/.exec(stdout)?.[1] ?? stderr.split('\n').find(line => /Error/.test(line)) ?? ''
      if (status === 0) unseen++
      else seen++
      console.log(`${status === 0 ? 'NOT SEEN' : 'seen'}  ${index + 1}. ${fault[0]}${status === 0 ? '' : `  (${said.slice(0, 110)})`}`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
  console.log(`\n${seen} passed, ${unseen} failed`)
  process.exitCode = unseen > 0 ? 1 : 0
}
