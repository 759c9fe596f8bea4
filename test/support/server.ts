// A bare http server whose requests and connections are followed, on loopback, with time standing still.

import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo } from 'node:net'
import { Requests } from '../../lib/requests.js'
import { Sockets } from '../../lib/sockets.js'
import { ManualClock } from './clock.js'

export interface Owner {
  teardown: (fn: () => Promise<unknown> | unknown) => void
}

export interface Followed {
  readonly clock: ManualClock
  readonly port: number
  readonly requests: Requests
  readonly server: Server
  readonly sockets: Sockets
  /** Resolves when the server has closed. */
  readonly closed: Promise<void>
}

export async function follow (t: Owner, listener: RequestListener, { realTurns = true } = {}): Promise<Followed> {
  const clock = new ManualClock({ realTurns })
  const sockets = new Sockets(clock, 4000)
  const requests = new Requests(clock, sockets.connections)
  const server = createServer(listener)
  sockets.track(server, requests.arrived)
  const closed = new Promise<void>((resolve) => { server.once('close', resolve) })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => {
    sockets.destroyAll()
    server.close()
  })
  return { clock, port: (server.address() as AddressInfo).port, requests, server, sockets, closed }
}

/** The next call of a function that the test hands out. */
export function calls<T> (): { call: (value: T) => void, next: () => Promise<T> } {
  const values: T[] = []
  const waiting: Array<(value: T) => void> = []
  return {
    call (value) {
      const resolve = waiting.shift()
      if (resolve === undefined) values.push(value)
      else resolve(value)
    },
    next: async () => values.length > 0 ? values.shift()! : await new Promise((resolve) => { waiting.push(resolve) })
  }
}
