import t from 'tap'
import { Lifecycle } from '../lib/lifecycle.js'
import { type State } from '../types/index.js'

const LEGAL: Record<State, State[]> = {
  starting: ['ready', 'draining', 'closing'],
  ready: ['draining', 'closing'],
  draining: ['closing'],
  closing: ['closed'],
  closed: []
}

/** How to get there. */
const WAY: Record<State, State[]> = {
  starting: [],
  ready: ['ready'],
  draining: ['ready', 'draining'],
  closing: ['ready', 'draining', 'closing'],
  closed: ['ready', 'draining', 'closing', 'closed']
}

const states = Object.keys(LEGAL) as State[]

function arrive (state: State) {
  const moves: unknown[][] = []
  const lifecycle = new Lifecycle((...move) => { moves.push(move) })
  for (const step of WAY[state]) lifecycle.move(step, 'on the way')
  moves.length = 0
  return { lifecycle, moves }
}

t.test('a service begins as starting', async (t) => {
  t.equal(arrive('starting').lifecycle.state, 'starting')
})

for (const from of states) {
  for (const to of states) {
    if (LEGAL[from].includes(to)) {
      t.test(`${from} -> ${to} is legal, and is told with its reason`, async (t) => {
        const { lifecycle, moves } = arrive(from)
        lifecycle.move(to, 'because')
        t.equal(lifecycle.state, to)
        t.strictSame(moves, [[from, to, 'because']])
      })
    } else {
      t.test(`${from} -> ${to} is refused by an error that names both, and nothing moves`, async (t) => {
        const { lifecycle, moves } = arrive(from)
        t.throws(() => { lifecycle.move(to, 'because') }, {
          code: 'FARGATE_ERR_ILLEGAL_MOVE',
          message: `The state cannot move from ${from} to ${to}.`
        })
        t.equal(lifecycle.state, from)
        t.strictSame(moves, [])
      })
    }
  }

  const isStopping = from === 'draining' || from === 'closing' || from === 'closed'
  t.test(`${from} ${isStopping ? 'belongs' : 'does not belong'} to a stop`, async (t) => {
    t.equal(arrive(from).lifecycle.isStopping, isStopping)
  })
}

t.test('whoever is told of a move sees the new state already', async (t) => {
  const seen: State[] = []
  const lifecycle: Lifecycle = new Lifecycle(() => { seen.push(lifecycle.state) })
  lifecycle.move('ready', '')
  lifecycle.move('closing', '')
  t.strictSame(seen, ['ready', 'closing'])
})
