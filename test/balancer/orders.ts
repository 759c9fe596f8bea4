// The proof of the whole package: real processes, real signals, a real load balancer that never retries, and every
// answer checked. Whatever the order in which deregistration and SIGTERM come, no request is lost.

import t, { type Test } from 'tap'
import { generator } from '../support/load.js'
import { needsHaproxy } from '../support/haproxy.js'
import { PER_SECOND, servers, startFleet, type Order, type Stop } from '../support/fleet.js'

const skip = needsHaproxy()
const STOP_TIMEOUT_S = 30
const env = {
  FARGATE_STOP_TIMEOUT: String(STOP_TIMEOUT_S),
  FARGATE_DEREGISTRATION_DELAY: '20',
  // Nobody waits for sixty of the default's three seconds of traffic; what is waited for is the usual pause, tenfold.
  FARGATE_QUIET: '0.1'
}

/** Each pass stops each of the three tasks once. */
const REPEATS = Number(process.env.REPEATS ?? 1)

t.setTimeout((60 + 90 * REPEATS) * 1000)
t.jobs = 2

const rules: Array<[rule: string, order: Order]> = [
  ['three tasks rolled in the documented order lose no request', 'documented'],
  ['three tasks that get SIGTERM a second before the load balancer knows lose no request', 'signal-first'],
  ['three tasks whose stop only the readiness route announces lose no request', 'unannounced']
]
for (const [rule, order] of rules) {
  t.test(rule, { skip, buffered: true }, async t => { await prove(t, servers.map(() => order)) })
}

t.test(`stops in any order lose no request (REPEATS=${REPEATS})`, { skip, buffered: true }, async t => {
  const seed = Number(process.env.SEED ?? 1)
  const random = generator(seed)
  t.comment(`SEED=${seed}`)
  const choices: Order[] = ['documented', 'signal-first', 'unannounced']
  const orders = Array.from({ length: REPEATS }, () => shuffled(choices, random)).flat()
  await prove(t, orders, seed)
})

async function prove (t: Test, orders: Order[], seed = 1): Promise<void> {
  const fleet = await startFleet(t, { fixture: 'service', env, seed })
  const stops: Stop[] = []
  for (const [index, order] of orders.entries()) {
    stops.push(await fleet.roll(servers[index % servers.length] as string, order))
  }
  const result = await fleet.finish()

  for (const stop of stops) {
    const { exit, order, task } = stop
    t.comment(`${order}: ${task} gone ${Math.round(exit.exitedAtMs)} ms after SIGTERM, ` +
      `served ${stop.servedBefore} before and ${stop.servedAfter} after it; ${JSON.stringify(exit.report ?? null)}`)
    const { report } = exit
    t.match(exit, { code: 0, signal: null, report: { reason: 'SIGTERM', exitCode: 0 } }, `${task} ended by itself`)
    t.strictSame([report?.cut, report?.errors], [[], []], `${task} cut nothing`)
    t.ok(exit.exitedAtMs < (STOP_TIMEOUT_S - 2) * 1000, `${task} ended before its deadline`)
    t.ok(stop.servedBefore >= 100, `${task} had served`)
    if (order === 'documented') {
      t.equal(stop.servedAfter, 0, `nothing came to ${task} after SIGTERM`)
      t.equal(report?.order, 'deregistered-first', `${task} saw the order`)
    } else {
      t.ok(stop.servedAfter > 0, `${task} went on serving after SIGTERM`)
      t.ok(report?.requests?.servedWhileDraining > 0, `${task} knows that it did`)
      t.equal(report?.order, 'signal-first', `${task} saw the order`)
    }
  }
  t.comment(`${result.sent} requests, ${result.perSecond.toFixed(0)}/s, slowest ${result.slowestMs.toFixed(0)} ms, ` +
    JSON.stringify(Object.fromEntries([...result.byRoute, ...result.byTask])))
  t.ok(result.perSecond >= 0.75 * PER_SECOND, 'the load was at least 150 requests a second')
  t.strictSame(result.losses, [], 'no request was lost')
  t.equal(result.ok, result.sent, 'every request got its answer')
}

function shuffled<T> (list: readonly T[], random: () => number): T[] {
  return list.map(value => ({ value, key: random() })).sort((a, b) => a.key - b.key).map(({ value }) => value)
}
