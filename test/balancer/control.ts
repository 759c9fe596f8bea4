// The control of the proof in orders.ts: the harness bites.

import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo } from 'node:net'
import t from 'tap'
import { servers, startFleet } from '../support/fleet.js'
import { needsHaproxy } from '../support/haproxy.js'
import { startLoad, type LossKind } from '../support/load.js'

t.setTimeout(90_000)

t.test('the same service with only fastify.close() loses requests', { skip: needsHaproxy() }, async t => {
  const fleet = await startFleet(t, { fixture: 'balancer-naive', evidence: false })
  const { exit } = await fleet.roll(servers[0], 'signal-first')
  const { losses, lost } = await fleet.finish()

  t.match(exit, { code: 0, signal: null }, 'though it ended by itself')
  t.ok(lost.length > 0, 'requests were lost')
  t.comment(`${lost.length} lost, among them ${losses[0]}`)
})

// Each way to lose a request, done on purpose, has to be seen as what it is.
const crimes: Record<LossKind, ((response: ServerResponse) => void) | undefined> = {
  status: response => { response.writeHead(503).end('closing') },
  reset: response => { response.socket?.resetAndDestroy() },
  truncated: response => { response.writeHead(200, { 'content-length': 10 }).write('half ', () => response.socket?.destroy()) },
  timeout: response => { response.writeHead(200).write('for ever') },
  wrong: response => { response.end('{"key":"of somebody else"}') },
  refused: undefined
}
for (const [kind, commit] of Object.entries(crimes)) {
  t.test(`an answer is lost as "${kind}"`, async t => {
    const server = createServer((_request, response) => commit?.(response))
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    t.teardown(() => { server.closeAllConnections(); server.close() })
    if (commit === undefined) await new Promise(resolve => server.close(resolve))

    const load = startLoad(t, { host: '127.0.0.1', port, timeoutMs: 200 })
    await load.sent(20)
    const { sent, ok, lost } = await load.stop()
    t.equal(ok, 0)
    t.equal(lost.length, sent)
    t.strictSame([...new Set(lost.map(loss => loss.kind))], [kind])
  })
}
