// A client that hides nothing: what was sent, what came, and how the connection ended.

import { connect as connectSocket, type Socket } from 'node:net'

export interface Client {
  readonly socket: Socket
  /** Everything that came. */
  readonly received: string
  write: (text: string) => void
  /** Sends a GET request. */
  get: (path: string, headers?: string) => void
  /** Resolves when what came matches; rejects when the connection ends without it. */
  until: (match: RegExp) => Promise<string>
  /** Resolves with everything that came, when the connection has ended. */
  readonly ended: Promise<string>
}

export interface Owner {
  teardown: (fn: () => Promise<unknown> | unknown) => void
}

export async function connect (t: Owner, port: number): Promise<Client> {
  const socket = connectSocket(port, '127.0.0.1')
  let received = ''
  let isEnded = false
  const waiting = new Set<() => void>()
  const changed = () => { for (const look of [...waiting]) look() }
  socket.setEncoding('utf8').on('data', (text) => {
    received += String(text)
    changed()
  })
  // A reset shows as an end: what had come by then is what counts.
  socket.on('error', () => {})
  const ended = new Promise<string>((resolve) => {
    socket.once('close', () => {
      isEnded = true
      changed()
      resolve(received)
    })
  })
  t.teardown(() => { socket.destroy() })
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  const write = (text: string) => { socket.write(text) }
  return {
    socket,
    get received () { return received },
    write,
    get: (path, headers = '') => { write(`GET ${path} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`) },
    until: (match) => new Promise((resolve, reject) => {
      const look = () => {
        if (!match.test(received)) {
          if (isEnded) reject(new Error(`the connection has ended, and no ${String(match)} in ${JSON.stringify(received)}`))
          return
        }
        waiting.delete(look)
        resolve(received)
      }
      waiting.add(look)
      look()
    }),
    ended
  }
}
