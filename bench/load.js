// A client that costs less than the server it loads: raw sockets, fixed requests, answers told apart by their length.
import { connect } from 'node:net'

process.on('message', async ({ port, path, connections, ms }) => {
  process.send({ answered: await load(port, path, connections, ms) })
})
process.send('ready')

async function load (port, path, connections, ms) {
  const request = Buffer.from(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  const size = await measure(port, request)
  let answered = 0
  let isOver = false
  const sockets = await Promise.all(Array.from({ length: connections }, () => open(port)))
  for (const socket of sockets) {
    let left = size
    socket.on('data', (chunk) => {
      left -= chunk.length
      if (left > 0) return
      answered++
      left = size
      if (!isOver) socket.write(request)
    })
    socket.write(request)
  }
  await new Promise((resolve) => setTimeout(resolve, ms))
  isOver = true
  for (const socket of sockets) socket.destroy()
  return answered
}

function open (port) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket)).once('error', reject).setNoDelay()
  })
}

/** The length of one answer, headers and body; the same for all, as even the date has a fixed length. */
async function measure (port, request) {
  const socket = await open(port)
  const chunk = await new Promise((resolve) => { socket.once('data', resolve).write(request) })
  socket.destroy()
  const text = String(chunk)
  if (!text.startsWith('HTTP/1.1 200 ')) throw new Error(`expected 200, got ${text.slice(0, 100)}`)
  return chunk.length
}
