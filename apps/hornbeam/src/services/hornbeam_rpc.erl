%% SPDX-License-Identifier: Apache-2.0

%% @private Functions of this and other nodes, called from Python.
%%
%% Names come as text and become atoms only where the node has those atoms already: the table of
%% atoms can't be filled from Python. The option `rpc_allow' is looked at first, on the node that
%% the worker belongs to.
%%
%% A call that takes too long is ended on the other node as well. `erpc:call/5' only stops waiting,
%% so the process is spawned here as {@link erpc} does it: `erpc:execute_call/4' is what every
%% release asks the other node to run, and by that a part of what they keep to between them; the
%% way in which it exits is too.
-module(hornbeam_rpc).

%% API
-export([call_encoded/3]).
-export([cast_encoded/2]).
-export([ping/1]).
-export([connect/1]).

-export_type([target/0, error/0]).

-type target() :: {Node :: binary(), Module :: binary(), Function :: binary()}.

-type error() ::
    {unknown_atom, #{text := binary()}}
  | {not_allowed, #{module := binary(), function := binary()}}
  | {node_down, #{node := binary()}}
  | {bad_arguments, #{expected := binary()}}
  | hornbeam_blob:error()
  | hornbeam_task:error().

%% @doc Call a function and wait for its result, as a blob. Takes over the calling process, which
%% is that of a task.
-spec call_encoded(target(), hornbeam_blob:blob(), timeout()) ->
    {ok, hornbeam_blob:blob()} | {error, error()}.
call_encoded(Target, ArgsBlob, TimeoutMs) ->
    DeadlineMs = deadline_ms(TimeoutMs),
    case resolve(Target, ArgsBlob) of
        {ok, {Node, Module, Function, Args}} ->
            case execute(Node, Module, Function, Args, DeadlineMs) of
                {ok, Result} -> {ok, hornbeam_blob:encode(Result)};
                timeout -> {error, {timeout, #{timeout_ms => TimeoutMs}}};
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc Have a function run, and ask no more about it.
-spec cast_encoded(target(), hornbeam_blob:blob()) -> {ok, true} | {error, error()}.
cast_encoded(Target, ArgsBlob) ->
    case resolve(Target, ArgsBlob) of
        {ok, {Node, Module, Function, Args}} ->
            ok = erpc:cast(Node, Module, Function, Args),
            {ok, true};
        {error, _} = Error ->
            Error
    end.

%% @doc Whether the node answers; connects to it.
-spec ping(Node :: binary()) -> {ok, boolean()} | {error, error()}.
ping(Node) ->
    case to_atom(Node) of
        {ok, Atom} -> {ok, net_adm:ping(Atom) =:= pong};
        {error, _} = Error -> Error
    end.

%% @doc Connect to the node; whether it is connected.
-spec connect(Node :: binary()) -> {ok, boolean()} | {error, error()}.
connect(Node) ->
    case to_atom(Node) of
        {ok, Atom} -> {ok, net_kernel:connect_node(Atom) =:= true};
        {error, _} = Error -> Error
    end.

%%% What is called

resolve({Node, Module, Function}, ArgsBlob) ->
    case is_allowed(hornbeam_config:node_option(rpc_allow), Module, Function) of
        true ->
            case to_atoms([Node, Module, Function]) of
                {ok, [NodeAtom, ModuleAtom, FunctionAtom]} ->
                    Args = hornbeam_blob:decode_list(ArgsBlob),
                    with_args(NodeAtom, ModuleAtom, FunctionAtom, Args);
                {error, _} = Error ->
                    Error
            end;
        false ->
            {error, {not_allowed, #{module => Module, function => Function}}}
    end.

with_args(Node, Module, Function, {ok, Args}) -> {ok, {Node, Module, Function, Args}};
with_args(_, _, _, {error, _} = Error) -> Error.

%% As text, so that what is not allowed is told as that, whatever the node knows.
is_allowed(all, _, _) ->
    true;
is_allowed(Allowed, Module, Function) ->
    lists:any(fun({AllowedModule, AllowedFunction}) ->
        atom_to_binary(AllowedModule) =:= Module andalso
            (AllowedFunction =:= '_' orelse atom_to_binary(AllowedFunction) =:= Function)
    end, Allowed).

to_atoms(Texts) ->
    to_atoms(Texts, []).

to_atoms([Text | Texts], Atoms) ->
    case to_atom(Text) of
        {ok, Atom} -> to_atoms(Texts, [Atom | Atoms]);
        {error, _} = Error -> Error
    end;
to_atoms([], Atoms) ->
    {ok, lists:reverse(Atoms)}.

to_atom(Text) ->
    try binary_to_existing_atom(Text) of
        Atom -> {ok, Atom}
    catch
        error:_ -> {error, {unknown_atom, #{text => Text}}}
    end.

%%% The call

%% The link ends the other process when this one is killed. Exits are trapped, as that process
%% always exits with a reason other than `normal', and the monitor tells it. This is the process of
%% a task.
execute(Node, Module, Function, Args, DeadlineMs) ->
    _ = process_flag(trap_exit, true),
    Tag = make_ref(),
    RequestId = spawn_request(Node, erpc, execute_call, [Tag, Module, Function, Args],
                              [monitor, link]),
    receive
        {spawn_reply, RequestId, ok, Pid} ->
            await(RequestId, Pid, Node, Tag, DeadlineMs);
        {spawn_reply, RequestId, error, noconnection} ->
            node_down(Node);
        {spawn_reply, RequestId, error, Reason} ->
            {error, hornbeam_task:remote_error(error, Reason, [])}
    after left_ms(DeadlineMs) ->
        abandon(RequestId),
        timeout
    end.

%% A process that is spawned all the same is ended by its link then and there.
abandon(RequestId) ->
    case spawn_request_abandon(RequestId) of
        true -> ok;
        false ->
            receive
                {spawn_reply, RequestId, ok, Pid} -> exit(Pid, kill);
                {spawn_reply, RequestId, error, _} -> ok
            end
    end.

await(Monitor, Pid, Node, Tag, DeadlineMs) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> outcome(Reason, Node, Tag)
    after left_ms(DeadlineMs) ->
        exit(Pid, kill),
        timeout
    end.

outcome({Tag, return, Result}, _, Tag) -> {ok, Result};
outcome({Tag, throw, Reason}, _, Tag) -> remote_error(throw, Reason, []);
outcome({Tag, exit, Reason}, _, Tag) -> remote_error(exit, Reason, []);
outcome({Tag, error, Reason, Stack}, _, Tag) -> remote_error(error, Reason, Stack);
outcome({Tag, error, Reason}, _, Tag) -> remote_error(error, Reason, []);
outcome(noconnection, Node, _) -> node_down(Node);
outcome(Reason, _, _) -> remote_error(exit, Reason, []).

remote_error(Class, Reason, Stack) ->
    {error, hornbeam_task:remote_error(Class, Reason, Stack)}.

node_down(Node) ->
    {error, {node_down, #{node => atom_to_binary(Node)}}}.

deadline_ms(infinity) -> infinity;
deadline_ms(TimeoutMs) -> erlang:monotonic_time(millisecond) + TimeoutMs.

left_ms(infinity) -> infinity;
left_ms(DeadlineMs) -> max(0, DeadlineMs - erlang:monotonic_time(millisecond)).
