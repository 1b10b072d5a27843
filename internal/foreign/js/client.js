// A stock gRPC client of the guest's agent.
//
//   node client.js unix:/run/guest.sock path/to/proto
//
// It describes the guest, runs `cat` in it with input, lists its processes, and
// asks for a session that is not there. It prints one line for each.
const crypto = require('crypto');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [target, protoDir] = process.argv.slice(2);
const {guest} = grpc.loadPackageDefinition(loader.loadSync(
  ['guest/v1/agent.proto', 'guest/v1/process.proto'], {includeDirs: [protoDir], oneofs: true, longs: Number}));
const agent = new guest.v1.AgentService(target, grpc.credentials.createInsecure());
const processes = new guest.v1.ProcessService(target, grpc.credentials.createInsecure());

const info = () => new Promise((resolve, reject) =>
  agent.info({}, (err, reply) => err ? reject(err) : resolve(reply)));

const exec = (args, input) => new Promise((resolve, reject) => {
  let output = Buffer.alloc(0);
  const call = processes.exec();
  call.on('error', reject);
  call.on('data', (m) => {
    switch (m.message) {
      case 'opened':
        call.write({input: {offset: 0, data: Buffer.from(input), eof: true}});
        break;
      case 'output': {
        // Each stream has offsets of its own; stderr says that it ends.
        const data = m.output.data || Buffer.alloc(0);
        output = Buffer.concat([output, data]);
        call.write({flowControl: {stream: m.output.stream, consumedOffset: (m.output.offset || 0) + data.length, window: 1 << 20}});
        break;
      }
      case 'exit':
        call.end();
        resolve({output: output.toString(), code: m.exit.code});
    }
  });
  call.write({open: {sessionId: crypto.randomBytes(16), spec: {args: args.map((a) => Buffer.from(a)), stdin: true}}});
});

const list = () => new Promise((resolve, reject) => {
  let n = 0;
  processes.listProcesses({})
    .on('data', (m) => { n += m.processes.length; })
    .on('error', reject)
    .on('end', () => resolve(n));
});

const wait = (id) => new Promise((resolve) =>
  processes.wait({sessionId: id}, (err) => resolve(err)));

(async () => {
  const {os} = await info();
  console.log('info', os.kernelName);
  const {output, code} = await exec(['cat'], 'hello from JavaScript');
  console.log('exec', code, output);
  console.log('processes', await list() > 0 ? 'some' : 'none');
  const err = await wait(Buffer.alloc(16));
  console.log('error', grpc.status[err.code]);
  agent.close();
  processes.close();
})().catch((err) => { console.error(err); process.exit(1); });
