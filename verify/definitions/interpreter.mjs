// A small interpreter of state machines in JSONata, with the reference implementation of the language and a clock that
// is played. It knows what our definitions use, and throws at anything else.

import { createHash, randomUUID } from 'node:crypto'

const LIMIT = 262144 // bytes of a state's input, output, arguments and variables, as AWS's quotas have it
const SPECIAL = /^\{%\s*([\s\S]*?)\s*%\}$/

export class Failed extends Error {
  constructor (error, cause = '') {
    super(`${error}: ${cause}`)
    this.error = error
    this.cause = cause
  }
}

/** What Step Functions cannot catch, and a definition must not run into. */
export class Broken extends Error {}

export class Machine {
  /**
   * @param jsonata the reference implementation
   * @param definition what to interpret
   * @param call called with the integration, the arguments and the branch's clock; it moves the clock
   */
  constructor (jsonata, definition, call) {
    this.jsonata = jsonata
    this.definition = definition
    this.call = call
    this.compiled = new Map()
  }

  /** Run an execution from a time in milliseconds: its status, its output or its error, and when it ended. */
  async run (input, now = 0) {
    const clock = { now }
    this.context = { Execution: { Id: 'execution', Name: 'execution', StartTime: iso(now), Input: input } }
    // Express: 5 minutes, if the definition has no other limit.
    const deadline = now + 1000 * (this.definition.TimeoutSeconds ?? 300)
    this.largest = 0
    try {
      const output = await this.states(this.definition, sized(this, input, 'the input'), [{}], clock, deadline, this.context)
      return { status: 'SUCCEEDED', output, now: clock.now }
    } catch (error) {
      if (!(error instanceof Failed)) throw error
      const timedOut = error.error === 'States.Timeout' && error.cause === 'execution'
      return { status: timedOut ? 'TIMED_OUT' : 'FAILED', error: error.error, cause: error.cause, now: clock.now }
    }
  }

  async states (definition, input, scopes, clock, deadline, context) {
    let name = definition.StartAt
    for (let steps = 0; name !== undefined; steps++) {
      if (steps > 20000) throw new Broken(`no end after ${steps} states, at ${name}`)
      if (clock.now > deadline) throw new Failed('States.Timeout', 'execution')
      const state = definition.States[name]
      const entered = { ...context, State: { Name: name, EnteredTime: iso(clock.now), RetryCount: 0 } }
      const place = { name, state, scopes, clock, deadline, context: entered }
      const next = await this.state(place, input)
      if (next.failed) throw next.failed
      input = next.output
      name = next.name
    }
    return input
  }

  async state (place, input) {
    const { state } = place
    switch (state.Type) {
      case 'Pass':
      case 'Succeed':
        return await this.leave(place, state, { input }, input)
      case 'Fail': {
        const [error, cause] = [await this.value(place, state.Error, { input }), await this.value(place, state.Cause, { input })]
        return { failed: new Failed(error, cause) }
      }
      case 'Wait':
        place.clock.now += 1000 * await this.value(place, state.Seconds, { input })
        return await this.leave(place, state, { input }, input)
      case 'Choice':
        for (const choice of state.Choices) {
          const holds = await this.value(place, choice.Condition, { input })
          if (typeof holds !== 'boolean') throw new Broken(`${place.name}: ${choice.Condition} is ${JSON.stringify(holds)}`)
          if (holds) return await this.leave(place, choice, { input }, input)
        }
        if (state.Default === undefined) throw new Failed('States.NoChoiceMatched')
        return await this.leave(place, { ...state, Next: state.Default }, { input }, input)
      case 'Task':
      case 'Map':
      case 'Parallel':
        return await this.tried(place, input)
      default:
        throw new Broken(`${place.name} is a ${state.Type}, which the interpreter does not know`)
    }
  }

  /** Run a task, a map or branches, with its retries and catchers. */
  async tried (place, input) {
    const { state, clock } = place
    const used = new Map()
    for (;;) {
      try {
        const work = { Map: this.map, Parallel: this.parallel, Task: this.task }[state.Type]
        const result = await work.call(this, place, input)
        return await this.leave(place, state, { input, result }, result)
      } catch (error) {
        if (!(error instanceof Failed) || (error.error === 'States.Timeout' && error.cause === 'execution')) throw error
        const retry = (state.Retry ?? []).find((one) => matches(one.ErrorEquals, error.error))
        const tries = used.get(retry) ?? 0
        if (retry && tries < (retry.MaxAttempts ?? 3)) {
          const delay = (retry.IntervalSeconds ?? 1) * (retry.BackoffRate ?? 2) ** tries
          clock.now += 1000 * Math.min(delay, retry.MaxDelaySeconds ?? Infinity)
          if (clock.now > place.deadline) throw new Failed('States.Timeout', 'execution')
          used.set(retry, tries + 1)
          place.context.State.RetryCount++
          continue
        }
        const caught = (state.Catch ?? []).find((one) => matches(one.ErrorEquals, error.error))
        if (!caught) throw error
        const errorOutput = { Error: error.error, Cause: error.cause }
        return await this.leave(place, caught, { input, errorOutput }, errorOutput)
      }
    }
  }

  async task (place, input) {
    const integration = place.state.Resource.split(':states:::')[1]
    if (integration.endsWith('.waitForTaskToken')) place.context.Task = { Token: randomUUID() }
    const args = sized(this, await this.value(place, place.state.Arguments, { input }), `the arguments of ${place.name}`)
    const began = place.clock.now
    const limit = place.state.TimeoutSeconds
    let result, failure
    try {
      result = await this.call(integration, args, place.clock, place.name)
    } catch (error) {
      if (!(error instanceof Failed)) throw error
      failure = error
    }
    if (limit !== undefined && place.clock.now - began > 1000 * limit) {
      place.clock.now = began + 1000 * limit
      failure = new Failed('States.Timeout', 'task')
    }
    if (place.clock.now > place.deadline) throw new Failed('States.Timeout', 'execution')
    if (failure) throw failure
    return sized(this, result, `the result of ${place.name}`)
  }

  /** Run the items of a map: as many at a time as it says, each on the clock of its lane. */
  async map (place, input) {
    const { state, clock } = place
    const items = await this.value(place, state.Items, { input })
    if (!Array.isArray(items)) throw new Broken(`${place.name}: the items are ${JSON.stringify(items)}`)
    const lanes = Array.from({ length: Math.min(state.MaxConcurrency || 40, items.length) }, () => ({ now: clock.now }))
    const results = []
    for (const [index, value] of items.entries()) {
      const lane = lanes.reduce((one, other) => other.now < one.now ? other : one)
      const context = { ...place.context, Map: { Item: { Index: index, Value: value } } }
      const inner = { ...place, context, clock: lane }
      const given = state.ItemSelector ? await this.value(inner, state.ItemSelector, { input }) : value
      const scopes = [{}, ...place.scopes]
      results.push(await this.states(state.ItemProcessor, sized(this, given, `an item of ${place.name}`), scopes, lane, place.deadline, context))
    }
    clock.now = Math.max(clock.now, ...lanes.map((lane) => lane.now))
    return sized(this, results, `the result of ${place.name}`)
  }

  async parallel (place, input) {
    const { state, clock } = place
    const lanes = state.Branches.map(() => ({ now: clock.now }))
    const results = []
    for (const [number, branch] of state.Branches.entries()) {
      results.push(await this.states(branch, input, [{}, ...place.scopes], lanes[number], place.deadline, place.context))
    }
    clock.now = Math.max(...lanes.map((lane) => lane.now))
    return sized(this, results, `the result of ${place.name}`)
  }

  /** Assign variables and make the output, both with what the variables were before. */
  async leave (place, how, given, output) {
    const values = {}
    for (const [name, value] of Object.entries(how.Assign ?? {})) {
      if (place.scopes.slice(1).some((scope) => name in scope)) throw new Broken(`${place.name} assigns ${name} of an outer scope`)
      values[name] = await this.value(place, value, given)
    }
    sized(this, values, `what ${place.name} assigns`)
    if (how.Output !== undefined) output = await this.value(place, how.Output, given)
    Object.assign(place.scopes[0], values)
    return { output: sized(this, output, `the output of ${place.name}`), name: how.End ? undefined : how.Next }
  }

  async value (place, value, given) {
    if (Array.isArray(value)) return await Promise.all(value.map((one) => this.value(place, one, given)))
    if (typeof value === 'object' && value !== null) {
      const entries = Object.entries(value).map(async ([name, one]) => [name, await this.value(place, one, given)])
      return Object.fromEntries(await Promise.all(entries))
    }
    const expression = typeof value === 'string' ? SPECIAL.exec(value)?.[1] : undefined
    return expression === undefined ? value : await this.evaluate(place, expression, given)
  }

  async evaluate (place, expression, given) {
    if (!this.compiled.has(expression)) this.compiled.set(expression, this.jsonata(expression))
    const bindings = Object.assign({}, ...[...place.scopes].reverse(), FUNCTIONS, { states: { ...given, context: place.context } })
    let result
    try {
      result = await this.compiled.get(expression).evaluate(undefined, bindings)
    } catch (error) {
      throw new Broken(`${place.name}: ${error.message} in ${expression}`)
    }
    // Step Functions refuses expressions without a value.
    if (result === undefined) throw new Broken(`${place.name}: nothing comes of ${expression}`)
    return JSON.parse(JSON.stringify(result))
  }
}

const FUNCTIONS = {
  hash: (data, algorithm) => createHash(algorithm.replace('-', '').toLowerCase()).update(data).digest('hex'),
  parse: (text) => JSON.parse(text),
  random: () => 1 - 2 ** -53, // the longest wait
  uuid: () => randomUUID()
}

function matches (errors, error) {
  return errors.some((one) => one === error || (one === 'States.ALL' && error !== 'States.DataLimitExceeded') ||
    (one === 'States.TaskFailed' && error !== 'States.Timeout'))
}

function sized (machine, value, what) {
  const bytes = value === undefined ? 0 : Buffer.byteLength(JSON.stringify(value))
  machine.largest = Math.max(machine.largest, bytes)
  if (bytes > LIMIT) throw new Broken(`${what}: ${bytes} bytes are more than ${LIMIT}`)
  return value
}

function iso (milliseconds) {
  return new Date(milliseconds).toISOString()
}
