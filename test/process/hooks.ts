// A hook that hangs, throws or blocks costs the exit code, nothing else: the others run, and the process ends in time.

import t, { type Test } from 'tap'
import { atLeast, beside, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS } from '../fixtures/process-client.js'
import { start, type Exit } from '../support/service.js'

t.jobs = 5

/** Each of the good hooks has run as often as it should. */
function theOthersRan (t: Test, { lines }: Exit): void {
  const ran = (which: string): number => lines.filter(({ msg }) => msg === `${which} beside it has run`).length
  t.strictSame(['onDraining', 'onClosing', 'onClose'].map(ran), [1, 1, 2], 'the other hooks have run')
}

const hung = {
  onDraining: 'onDraining hook hang',
  onClosing: 'onClosing hook hang',
  preClose: 'a preClose or onClose hook',
  onClose: 'a preClose or onClose hook'
}
for (const [kind, name] of Object.entries(hung)) {
  t.test(`${kind}: a hook that hangs is named at the deadline`, beside(), async t => {
    const service = await start(t, 'process-hooks', { env: SHORT, args: [kind, 'hang'] })
    service.kill('SIGTERM')
    const exit = await service.exited
    t.match(exit, { code: 1, signal: null, report: { exitCode: 1, cut: [{ kind: 'hook', name, ageMs: Number }], errors: [] } })
    t.equal(exit.report?.cut.length, 1)
    t.ok(exit.report?.cut[0].ageMs >= SHORT_DEADLINE_MS / 2, 'with its age')
    t.ok(exit.exitedAtMs >= SHORT_DEADLINE_MS, 'not before')
    t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
    t.match(exit.lines.find(names), { level: 50, holders: [{ name }] })
    // Those that Fastify would have called after the one that hangs cannot run.
    if (kind === 'onDraining' || kind === 'onClosing') theOthersRan(t, exit)
  })
}

const thrown = {
  onDraining: 'onDraining hook throw',
  onClosing: 'onClosing hook throw',
  preClose: 'fastify.close()',
  onClose: 'fastify.close()'
}
for (const [kind, where] of Object.entries(thrown)) {
  t.test(`${kind}: a hook that throws makes the exit code 1, and no other hook is skipped`, beside(), async t => {
    const service = await start(t, 'process-hooks', { env: NO_WAIT, args: [kind, 'throw'] })
    service.kill('SIGTERM')
    const exit = await service.exited
    t.match(exit, { code: 1, signal: null, report: { exitCode: 1, cut: [], errors: [{ message: 'the hook has thrown' }] } })
    t.match(exit.report?.errors[0].where, where)
    t.equal(exit.report?.errors.length, 1)
    t.ok(exit.exitedAtMs < 20_000, 'and costs no time')
    theOthersRan(t, exit)
  })
}

t.test('an onClose hook that throws synchronously: Fastify never settles, the deadline does', beside(), async t => {
  const service = await start(t, 'process-hooks', { env: SHORT, args: ['onClose', 'throwAtOnce'] })
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 1, signal: null, report: { exitCode: 1, errors: [{ where: 'uncaughtException', message: 'the hook has thrown' }] } })
  t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS)
})

for (const kind of ['onDraining', 'onClosing']) {
  t.test(`${kind}: a hook that throws synchronously is no uncaught exception`, beside(), async t => {
    const service = await start(t, 'process-hooks', { env: NO_WAIT, args: [kind, 'throwAtOnce'] })
    service.kill('SIGTERM')
    const exit = await service.exited
    t.match(exit, { code: 1, signal: null, report: { exitCode: 1, errors: [{ where: `${kind} hook throwAtOnce`, message: 'the hook has thrown' }] } })
    theOthersRan(t, exit)
  })
}

t.test('an onClose hook that blocks the event loop beyond the deadline: exit 1, with the report', beside(), async t => {
  const service = await start(t, 'process-hooks', { env: { ...SHORT, FARGATE_STOP_TIMEOUT: '2', FARGATE_MARGIN: '0.5' }, args: ['onClose', 'block'] })
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 1, signal: null, report: { exitCode: 1, cut: [{ kind: 'hook', name: 'a preClose or onClose hook' }] } })
  t.ok(exit.exitedAtMs >= 2500)
  t.ok(exit.exitedAtMs < 20_000)
})

for (const kind of ['onDraining', 'onClosing']) {
  t.test(`onClose hooks wait for an ${kind} hook`, beside(), async t => {
    const service = await start(t, 'process-hooks', { env: NO_WAIT, args: [kind, 'hold'] })
    service.kill('SIGTERM')
    await service.message(({ held }) => held === 'hook')
    await service.line(({ msg }) => msg === 'onClosing beside it has run')
    t.notOk(service.lines.some(({ msg }) => msg === 'onClose beside it has run'))
    service.send('hook')
    const exit = await service.exited
    t.match(exit, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
    theOthersRan(t, exit)
  })
}

t.test('hooks of the same name are all waited for', beside(), async t => {
  const service = await start(t, 'process-namesakes', { env: SHORT })
  service.kill('SIGTERM')
  await service.message(({ held }) => held === 'slow')
  await service.line(({ msg }) => msg === 'the fast one has ended')
  // Long enough for whoever looks again now and then to believe that all have ended.
  await atLeast(400)
  service.send('slow')
  const { code, signal, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  const order = lines.map(({ msg }) => msg).filter(msg => /^(the (fast|slow) one|onClose) has/.test(msg))
  t.strictSame(order, ['the fast one has ended', 'the slow one has ended', 'onClose has run'])
})

t.test('of two hooks of the same name that hang both are named', beside(), async t => {
  const service = await start(t, 'process-namesakes', { env: SHORT, args: ['hang'] })
  service.kill('SIGTERM')
  const { code, signal, report } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.equal(report?.cut.length, 2)
})
