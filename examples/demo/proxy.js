// A reverse proxy in fifty lines, strict enough to lose what a load balancer would lose: connections to the targets are
// kept alive and reused, and nothing is ever tried twice.
import { Agent, createServer, request as send } from 'node:http'

export class Proxy {
  #targets = new Map()
  #turn = 0
  #server = createServer((req, res) => { this.#forward(req, res) })

  async listen () {
    await new Promise((resolve) => { this.#server.listen(0, '127.0.0.1', resolve) })
    return this.#server.address().port
  }

  register (name, port) {
    this.#targets.set(name, { port, agent: new Agent({ keepAlive: true }) })
  }

  /** No new requests from here on; those in flight go on. */
  deregister (name) {
    this.#targets.delete(name)
  }

  close () {
    this.#server.closeAllConnections()
    this.#server.close()
  }

  #forward (req, res) {
    const targets = [...this.#targets]
    const [name, { port, agent }] = targets[this.#turn++ % targets.length]
    const { method, url, headers } = req
    const upstream = send({ host: '127.0.0.1', port, agent, method, path: url, headers: { ...headers, connection: 'keep-alive' } })
    upstream.on('response', (answer) => {
      const { connection, 'keep-alive': keepAlive, ...kept } = answer.headers
      res.writeHead(answer.statusCode, { ...kept, 'x-target': name })
      answer.on('error', () => { res.destroy() }).pipe(res)
    })
    upstream.on('error', () => {
      if (res.headersSent) res.destroy()
      else res.writeHead(502, { 'x-target': name }).end()
    })
    req.pipe(upstream)
  }
}
