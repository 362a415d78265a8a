BEGIN TRANSACTION;
CREATE TABLE artifacts (
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	data BLOB NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (digest)
);
INSERT INTO "artifacts" VALUES('14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6',5,X'736169640A','2026-11-25 16:28:28.593000');
INSERT INTO "artifacts" VALUES('c22d26d33c5783cf2bd157ba48eefa471ac49ab7bc71d5e8d5977eedd2c91726',10,X'6E6F74207265616C6C79','2026-11-25 16:28:28.596000');
INSERT INTO "artifacts" VALUES('964b700204f5ed374ad64a3b7a2b4f00c5504084a7d156ad7257354fe1c6fe01',23,X'636C6173732047726170684D6F64756C653A202E2E2E0A','2026-11-25 16:28:28.656000');
CREATE TABLE attempt_artifacts (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	media_type TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	CONSTRAINT pk_attempt_artifacts PRIMARY KEY (job_id, attempt, name), 
	CONSTRAINT fk_attempt_artifacts_digest FOREIGN KEY(digest) REFERENCES artifacts (digest), 
	CONSTRAINT fk_attempt_artifacts_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "attempt_artifacts" VALUES(1,1,'log.txt','text/plain','14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6');
INSERT INTO "attempt_artifacts" VALUES(1,1,'events.parquet','application/vnd.apache.parquet','c22d26d33c5783cf2bd157ba48eefa471ac49ab7bc71d5e8d5977eedd2c91726');
INSERT INTO "attempt_artifacts" VALUES(4,1,'graph.py','text/x-python','964b700204f5ed374ad64a3b7a2b4f00c5504084a7d156ad7257354fe1c6fe01');
INSERT INTO "attempt_artifacts" VALUES(8,1,'intermediates.safetensors','application/vnd.safetensors','c22d26d33c5783cf2bd157ba48eefa471ac49ab7bc71d5e8d5977eedd2c91726');
CREATE TABLE attempts (
	job_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	token TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	state TEXT NOT NULL, 
	cause TEXT, 
	message TEXT, 
	started DATETIME NOT NULL, 
	ended DATETIME, 
	environment TEXT, 
	CONSTRAINT pk_attempts PRIMARY KEY (job_id, number), 
	CONSTRAINT ck_attempts_ended CHECK ((state = 'running') = (ended IS NULL)), 
	CONSTRAINT ck_attempts_state CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'lost', 'handed_back')), 
	CONSTRAINT fk_attempts_environment FOREIGN KEY(environment) REFERENCES environments (digest), 
	CONSTRAINT fk_attempts_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES(1,1,'8673479bb127334a66493ce6397566c4','w1','succeeded',NULL,NULL,'2026-11-25 16:28:28.582000','2026-11-25 16:28:28.591000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(2,1,'d23ff1465b2acd3584e5db5d0e244c0b','import','succeeded',NULL,NULL,'2026-11-25 16:28:28.627000','2026-11-25 16:28:28.634000',NULL);
INSERT INTO "attempts" VALUES(3,1,'2c9a2022b972640c3e60e4e5ee3b3768','w1','lost','lost','Its lease ran out: the worker died, or was cut off from the database.','2026-11-25 16:28:28.644000','2026-11-25 16:28:28.648000',NULL);
INSERT INTO "attempts" VALUES(4,1,'e17a49942cc8f85227248f7a0b8a8b89','w1','succeeded',NULL,NULL,'2026-11-25 16:28:28.651000','2026-11-25 16:28:28.655000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(5,1,'f7fcec2e8e06181be2f5a1ecaff5693a','w2','running',NULL,NULL,'2026-11-25 16:28:28.660000',NULL,NULL);
INSERT INTO "attempts" VALUES(7,1,'40c289ea13a91924b028b1f1d275ae85','node7:42','succeeded',NULL,NULL,'2026-11-25 17:14:17.069000','2026-11-25 17:14:17.084000',NULL);
INSERT INTO "attempts" VALUES(8,1,'5b8cdb5502c5e4f738fd468eb0703b6a','node7:42','succeeded',NULL,NULL,'2026-11-25 17:14:17.121000','2026-11-25 17:14:17.127000',NULL);
CREATE TABLE dnnamo_schema_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT dnnamo_schema_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "dnnamo_schema_version" VALUES('0004');
CREATE TABLE environments (
	digest TEXT NOT NULL, 
	hostname TEXT NOT NULL, 
	os TEXT NOT NULL, 
	cpu TEXT NOT NULL, 
	cores INTEGER NOT NULL, 
	memory_bytes BIGINT NOT NULL, 
	gpu TEXT, 
	driver TEXT, 
	python TEXT NOT NULL, 
	libraries JSON NOT NULL, 
	record JSON NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_environments PRIMARY KEY (digest)
);
INSERT INTO "environments" VALUES('8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568','node7','Linux 6.1','EPYC',64,1099511627776,'H200','570','3.11.7','{"torch":"2.13.0","numpy":"2.4.6"}','{"hostname":"node7","os":"Linux 6.1","cpu":"EPYC","cores":64,"affinity":[0,1],"governor":null,"memory_bytes":1099511627776,"python":"3.11.7","libraries":{"torch":"2.13.0","numpy":"2.4.6"},"threads":{"OMP_NUM_THREADS":2},"gpus":[{"name":"H200","uuid":"GPU-1","memory_bytes":137438953472}],"driver":"570"}','2026-11-25 16:28:28.619000');
CREATE TABLE graph_edges (
	job_id INTEGER NOT NULL, 
	operation INTEGER NOT NULL, 
	side TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	tensor INTEGER NOT NULL, 
	CONSTRAINT pk_graph_edges PRIMARY KEY (job_id, operation, side, position), 
	CONSTRAINT ck_graph_edges_side CHECK (side IN ('input', 'output')), 
	CONSTRAINT fk_graph_edges_job_id FOREIGN KEY(job_id) REFERENCES graphs (job_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "graph_edges" VALUES(7,0,'input',0,0);
INSERT INTO "graph_edges" VALUES(7,0,'input',1,1);
INSERT INTO "graph_edges" VALUES(7,2,'input',2,1);
INSERT INTO "graph_edges" VALUES(7,0,'output',0,2);
INSERT INTO "graph_edges" VALUES(7,1,'input',0,2);
INSERT INTO "graph_edges" VALUES(7,1,'output',0,3);
INSERT INTO "graph_edges" VALUES(7,2,'input',0,3);
INSERT INTO "graph_edges" VALUES(7,2,'input',1,3);
INSERT INTO "graph_edges" VALUES(7,1,'output',1,4);
INSERT INTO "graph_edges" VALUES(7,3,'input',1,4);
INSERT INTO "graph_edges" VALUES(7,2,'output',0,5);
INSERT INTO "graph_edges" VALUES(7,3,'input',0,5);
INSERT INTO "graph_edges" VALUES(7,3,'output',0,6);
CREATE TABLE graph_operations (
	job_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	layer TEXT, 
	CONSTRAINT pk_graph_operations PRIMARY KEY (job_id, number), 
	CONSTRAINT fk_graph_operations_job_id FOREIGN KEY(job_id) REFERENCES graphs (job_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "graph_operations" VALUES(7,0,'linear','aten.linear.default','first');
INSERT INTO "graph_operations" VALUES(7,1,'split','aten.split.Tensor','Net');
INSERT INTO "graph_operations" VALUES(7,2,'mul','aten.mul.Tensor','second');
INSERT INTO "graph_operations" VALUES(7,3,'add','aten.mul.Tensor',NULL);
INSERT INTO "graph_operations" VALUES(7,4,'check','aten._assert.default',NULL);
CREATE TABLE graph_tensors (
	job_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	role TEXT NOT NULL, 
	dtype TEXT, 
	shape JSON, 
	elements BIGINT, 
	bytes BIGINT, 
	CONSTRAINT pk_graph_tensors PRIMARY KEY (job_id, number), 
	CONSTRAINT ck_graph_tensors_role CHECK (role IN ('input', 'weight', 'state', 'constant', 'output', 'intermediate')), 
	CONSTRAINT fk_graph_tensors_job_id FOREIGN KEY(job_id) REFERENCES graphs (job_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "graph_tensors" VALUES(7,0,'x','input','float32','["s0",8]',NULL,NULL);
INSERT INTO "graph_tensors" VALUES(7,1,'weight','weight','bfloat16','[8,8]',64,128);
INSERT INTO "graph_tensors" VALUES(7,2,'linear','intermediate','float32','[null,8]',NULL,NULL);
INSERT INTO "graph_tensors" VALUES(7,3,'split:0','intermediate','float32','[2,8]',16,64);
INSERT INTO "graph_tensors" VALUES(7,4,'split:1','intermediate','bool','[]',1,1);
INSERT INTO "graph_tensors" VALUES(7,5,'mul','intermediate',NULL,NULL,NULL,NULL);
INSERT INTO "graph_tensors" VALUES(7,6,'add','output','string','[2]',2,NULL);
CREATE TABLE graphs (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	operations BIGINT NOT NULL, 
	tensors BIGINT NOT NULL, 
	edges BIGINT NOT NULL, 
	layers BIGINT NOT NULL, 
	depth BIGINT, 
	weights BIGINT NOT NULL, 
	weight_elements BIGINT NOT NULL, 
	weight_bytes BIGINT NOT NULL, 
	record JSON NOT NULL, 
	CONSTRAINT pk_graphs PRIMARY KEY (job_id), 
	CONSTRAINT fk_graphs_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "graphs" VALUES(7,1,'torch_export',5,7,13,3,4,1,64,128,'{"source":"torch_export","inputs":[0],"outputs":[6,6],"notes":["It is drawn by hand."]}');
CREATE TABLE hint_keys (
	id INTEGER NOT NULL, 
	"key" BLOB NOT NULL, 
	CONSTRAINT pk_hint_keys PRIMARY KEY (id), 
	CONSTRAINT ck_hint_keys_one_row CHECK (id = 1)
);
INSERT INTO "hint_keys" VALUES(1,X'62F83FCC1CF984ED85C8E76BFB9C3845D74DA02B9F8E043EA29272D10FF6D472');
CREATE TABLE job_tags (
	tag TEXT NOT NULL, 
	job_id INTEGER NOT NULL, 
	CONSTRAINT pk_job_tags PRIMARY KEY (tag, job_id), 
	CONSTRAINT fk_job_tags_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_tags" VALUES('nightly',1);
INSERT INTO "job_tags" VALUES('ä',1);
INSERT INTO "job_tags" VALUES('drawn',7);
CREATE TABLE jobs (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	"key" TEXT, 
	state TEXT NOT NULL, 
	cause TEXT, 
	message TEXT, 
	model TEXT NOT NULL, 
	method TEXT NOT NULL, 
	device TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	n_steps BIGINT NOT NULL, 
	params JSON NOT NULL, 
	spec JSON NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	token TEXT, 
	lease_until DATETIME, 
	created DATETIME NOT NULL, 
	started DATETIME, 
	ended DATETIME, progress JSON, 
	CONSTRAINT ck_jobs_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)), 
	CONSTRAINT ck_jobs_token CHECK ((state = 'running') = (token IS NOT NULL)), 
	CONSTRAINT ck_jobs_ended CHECK ((state IN ('queued', 'running')) = (ended IS NULL)), 
	CONSTRAINT ck_jobs_state CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')), 
	CONSTRAINT uq_jobs_key UNIQUE ("key")
);
INSERT INTO "jobs" VALUES(1,'first','succeeded',NULL,NULL,'demo:mlp','profile_training','cpu',0,10,'{"width":1099511627776,"layers":[1,2]}','{"model":"demo:mlp","method":"profile_training","params":{"width":1099511627776,"layers":[1,2]},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":["nightly","ä"],"capture":["shapes"],"paired":true}',0,1,NULL,NULL,'2026-11-25 16:28:28.570000','2026-11-25 16:28:28.579000','2026-11-25 16:28:28.585000',NULL);
INSERT INTO "jobs" VALUES(2,NULL,'succeeded',NULL,NULL,'/tmp/trace.json','import_trace','cpu',0,1,'{}','{"model":"/tmp/trace.json","method":"import_trace","params":{},"n_steps":1,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[],"capture":[],"paired":true}',0,1,NULL,NULL,'2026-11-25 16:28:28.622000','2026-11-25 16:28:28.624000','2026-11-25 16:28:28.628000',NULL);
INSERT INTO "jobs" VALUES(3,NULL,'queued',NULL,NULL,'demo:cnn','run_inference','cpu',0,10,'{}','{"model":"demo:cnn","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[],"capture":[],"paired":true}',0,1,NULL,NULL,'2026-11-25 16:28:28.643000','2026-11-25 16:28:28.644000',NULL,NULL);
INSERT INTO "jobs" VALUES(4,NULL,'succeeded',NULL,NULL,'demo:cnn','get_training_graph','cpu',0,10,'{}','{"model":"demo:cnn","method":"get_training_graph","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[],"capture":[],"paired":true}',0,1,NULL,NULL,'2026-11-25 16:28:28.650000','2026-11-25 16:28:28.651000','2026-11-25 16:28:28.653000',NULL);
INSERT INTO "jobs" VALUES(5,NULL,'running',NULL,NULL,'demo:mlp','run_inference','gpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"gpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[],"capture":[],"paired":true}',0,1,'f7fcec2e8e06181be2f5a1ecaff5693a','2026-11-25 16:28:27.661000','2026-11-25 16:28:28.658000','2026-11-25 16:28:28.659000',NULL,NULL);
INSERT INTO "jobs" VALUES(6,NULL,'cancelled','cancelled','Cancelled before it started.','demo:mlp','run_inference','cpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[],"capture":[],"paired":true}',1,0,NULL,NULL,'2026-11-25 16:28:28.661000',NULL,'2026-11-25 16:28:28.663000',NULL);
INSERT INTO "jobs" VALUES(7,NULL,'succeeded',NULL,NULL,'demo:cnn','get_inference_graph','cpu',0,10,'{}','{"model":"demo:cnn","method":"get_inference_graph","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"bundle":null,"python":null,"repeats":0,"tags":["drawn"],"keys":[],"capture":[],"paired":true,"setup":{"precision":null,"compile":null,"jit_compile":false,"channels_last":false,"accumulate":1},"seed":null}',0,1,NULL,NULL,'2026-11-25 17:14:17.047000','2026-11-25 17:14:17.063000','2026-11-25 17:14:17.075000',NULL);
INSERT INTO "jobs" VALUES(8,NULL,'succeeded',NULL,NULL,'demo:cnn','get_intermediates','cpu',0,10,'{}','{"model":"demo:cnn","method":"get_intermediates","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"bundle":null,"python":null,"repeats":0,"tags":[],"keys":[],"capture":[],"paired":true,"setup":{"precision":null,"compile":null,"jit_compile":false,"channels_last":false,"accumulate":1},"seed":null}',0,1,NULL,NULL,'2026-11-25 17:14:17.114000','2026-11-25 17:14:17.121000','2026-11-25 17:14:17.125000',NULL);
CREATE TABLE operations (
	job_id INTEGER NOT NULL, 
	grain TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	shapes JSON, 
	calls BIGINT NOT NULL, 
	self_ns BIGINT NOT NULL, 
	total_ns BIGINT NOT NULL, 
	device_ns BIGINT NOT NULL, 
	device_total_ns BIGINT, 
	flops BIGINT, 
	bytes BIGINT, 
	peak_bytes BIGINT, 
	CONSTRAINT pk_operations PRIMARY KEY (job_id, grain, position), 
	CONSTRAINT ck_operations_grain CHECK (grain IN ('name', 'shape', 'layer', 'kernel')), 
	CONSTRAINT fk_operations_job_id FOREIGN KEY(job_id) REFERENCES profiles (job_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "operations" VALUES(1,'kernel',0,'gemm<float>',NULL,2,0,0,3,3,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(1,'layer',0,'',NULL,1,5,9223372036854775807,0,0,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(1,'name',0,'aten::mm',NULL,4,9223372036854775807,9223372036854775807,9223372036854775807,9223372036854775807,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(1,'name',1,'aten::add',NULL,1,5,7,0,0,1125899906842624,-16,0);
INSERT INTO "operations" VALUES(1,'shape',0,'aten::mm','[[2,3],[],null]',3,9223372036854775807,9223372036854775807,9223372036854775807,0,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(1,'shape',1,'aten::add',NULL,1,5,7,0,0,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(1,'shape',2,'aten::mm','[]',1,1,1,0,0,NULL,NULL,NULL);
INSERT INTO "operations" VALUES(2,'name',0,'Kernel_ääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääää',NULL,1,5,5,0,0,NULL,NULL,NULL);
CREATE TABLE profile_steps (
	job_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	wall_ns BIGINT NOT NULL, 
	covered_ns BIGINT, 
	calls BIGINT, 
	self_ns BIGINT, 
	device_ns BIGINT, 
	peak_bytes BIGINT, 
	CONSTRAINT pk_profile_steps PRIMARY KEY (job_id, position), 
	CONSTRAINT fk_profile_steps_job_id FOREIGN KEY(job_id) REFERENCES profiles (job_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "profile_steps" VALUES(1,0,5,10,4,2,9,3,1099511627776);
INSERT INTO "profile_steps" VALUES(1,1,6,30,16,2,9223372036854775807,0,NULL);
CREATE TABLE profiles (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	events BIGINT NOT NULL, 
	span_ns BIGINT, 
	covered_ns BIGINT NOT NULL, 
	coverage DOUBLE, 
	overhead DOUBLE, 
	unprofiled_ns DOUBLE, 
	device_busy_ns BIGINT, 
	device_idle_ns BIGINT, 
	peak_bytes BIGINT, 
	flops BIGINT, 
	flop_coverage DOUBLE, 
	record JSON NOT NULL, 
	CONSTRAINT pk_profiles PRIMARY KEY (job_id), 
	CONSTRAINT ck_profiles_verdict CHECK (verdict IN ('ok', 'degraded', 'bad')), 
	CONSTRAINT fk_profiles_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "profiles" VALUES(1,1,'kineto','degraded',1234,90,20,0.5,2.5,12.0,80,9223372036854775807,1099511627776,1125899906842624,0.75,'{"source":"kineto","events":1234,"span_ns":90,"steps":[],"covered_ns":20,"operations":{},"devices":[{"device":0,"total_ns":50,"busy_ns":40,"compute_ns":30,"communication_ns":5,"exposed_communication_ns":4,"copy_ns":7,"exposed_copy_ns":6,"idle_ns":9223372036854775798,"waiting_for_host_ns":8,"gap_ns":2},{"device":1,"total_ns":50,"busy_ns":40,"compute_ns":30,"communication_ns":5,"exposed_communication_ns":4,"copy_ns":7,"exposed_copy_ns":6,"idle_ns":9223372036854775798,"waiting_for_host_ns":8,"gap_ns":2}],"peak_bytes":{"cpu":7,"gpu 0":1099511627776},"flops":{"flops":1125899906842624,"counted_calls":3,"calls":4,"uncounted":{"aten::add":1}},"overhead":{"before_ns":[10,12],"after_ns":[14],"profiled_ns":30.0},"verdict":"degraded","reasons":["2 events overlap."],"notes":[]}');
INSERT INTO "profiles" VALUES(2,1,'chrome','bad',1,5,5,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"source":"chrome","events":1,"span_ns":5,"steps":[],"covered_ns":5,"operations":{},"devices":[],"peak_bytes":{},"flops":null,"overhead":null,"verdict":"bad","reasons":["Cut short."],"notes":[]}');
CREATE TABLE results (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	n_steps BIGINT, 
	median_ns DOUBLE, 
	min_ns BIGINT, 
	max_ns BIGINT, 
	warmup_steps BIGINT, 
	final_loss DOUBLE, 
	record JSON NOT NULL, verdict TEXT, 
	CONSTRAINT pk_results PRIMARY KEY (job_id), 
	CONSTRAINT fk_results_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "results" VALUES(1,1,4,3500.0,2000,9223372036854775807,2,0.25,'{"steps":{"count":4,"duration_ns":[4000,2000,3000,9223372036854775807],"warmup":{"count":2,"duration_ns":[9,8]}},"loss":[1.5,null,1e+300,0.25],"score":[0.5],"predictions":{"kept":1,"total":4,"total_bytes":4096},"evidence":{"wall_ns":5,"cores":[0],"own_cpu_ns":4,"foreign_cpu_ns":1,"delayed_ns":0,"steal_ns":0,"throttles":null,"foreign_gpu_pids":[],"gpu_throttles":[],"reasons":["Others took core 0."],"repeated":0}}','tainted');
CREATE TABLE "workers" (
	name TEXT NOT NULL, 
	queues JSON NOT NULL, 
	slots INTEGER NOT NULL, 
	started DATETIME NOT NULL, 
	seen DATETIME NOT NULL, 
	polled DATETIME NOT NULL, 
	devices JSON NOT NULL, 
	busy JSON NOT NULL, 
	set_aside JSON NOT NULL, 
	jobs JSON NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
INSERT INTO "workers" VALUES('node7:42','["cpu"]',2,'2026-11-25 16:28:28.668000','2026-11-25 16:28:28.668000','2026-11-25 16:28:28.668000','["core 0"]','[]','["GPU-2: 3 GiB were left behind"]','[5]');
CREATE INDEX ix_jobs_claim ON jobs (device, state, priority DESC, id);
CREATE INDEX ix_jobs_state ON jobs (state, id);
CREATE INDEX ix_attempts_environment ON attempts (environment);
CREATE INDEX ix_attempt_artifacts_digest ON attempt_artifacts (digest);
CREATE INDEX ix_job_tags_job_id ON job_tags (job_id);
CREATE INDEX ix_operations_name ON operations (name) WHERE grain = 'name';
CREATE INDEX ix_graph_edges_job_id_tensor ON graph_edges (job_id, tensor);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',8);
COMMIT;
