%% SPDX-License-Identifier: Apache-2.0

%% @private What workers may call: the functions of `docs/protocol.md', each a clause.
%%
%% Runs inside the worker's own Erlang process. What answers at once does so here; what may wait is
%% handed back as a task, which the worker runs in a process apart (see {@link hornbeam_task}).
-module(hornbeam_services).

%% API
-export([call/2]).
-export([cast/2]).

-export_type([result/0, answer/0]).

-type result() :: {ok, term()} | {error, {atom(), map()}}.

-type answer() ::
    result()
  | {task, hornbeam_task:task(), timeout()}
  | {stream, hornbeam_hook_call:invocation(), timeout()}.

-define(IS_TIMEOUT(TimeoutMs),
        (TimeoutMs =:= infinity orelse
         is_integer(TimeoutMs) andalso TimeoutMs >= 0 andalso TimeoutMs =< 16#FFFFFFFF)).

-define(IS_METHOD(Method), (Method =:= undefined orelse is_binary(Method))).

-define(IS_TTL(TtlMs), (TtlMs =:= undefined orelse is_integer(TtlMs) andalso TtlMs >= 0)).

-spec call(Function :: atom(), Args :: tuple()) -> answer().
call(state_get, {Key}) ->
    with_name(Key, fun(Name) -> {ok, hornbeam_state:get_encoded(Name)} end);
call(state_incr, {Key, Delta}) when is_integer(Delta) ->
    with_name(Key, fun(Name) ->
        case hornbeam_state_table:incr(Name, Delta) of
            {ok, Value} -> {ok, Value};
            {error, not_an_integer} -> {error, {not_an_integer, #{}}};
            {error, Full} -> {error, Full}
        end
    end);
call(state_set, {Key, Blob, TtlMs}) when is_binary(Blob), ?IS_TTL(TtlMs) ->
    with_name(Key, fun(Name) ->
        written(hornbeam_state_table:put(Name, hornbeam_state:from_encoded(Blob), TtlMs))
    end);
call(state_delete, {Key}) ->
    with_name(Key, fun(Name) -> {ok, hornbeam_state_table:take(Name) =/= none} end);
call(state_get_multi, {Keys}) when is_list(Keys) ->
    with_names(Keys, fun(Names) -> {ok, lists:map(fun hornbeam_state:get_encoded/1, Names)} end);
call(state_set_multi, {Pairs, TtlMs}) when is_list(Pairs), ?IS_TTL(TtlMs) ->
    {Keys, Blobs} = lists:unzip(Pairs),
    with_names(Keys, fun(Names) ->
        Values = lists:map(fun hornbeam_state:from_encoded/1, Blobs),
        written(hornbeam_state_table:put_all(lists:zip(Names, Values), TtlMs))
    end);
call(state_add, {Key, Blob, TtlMs}) when is_binary(Blob), ?IS_TTL(TtlMs) ->
    with_name(Key, fun(Name) ->
        written(hornbeam_state_table:add(Name, hornbeam_state:from_encoded(Blob), TtlMs))
    end);
call(state_cas, {Key, Expected, New}) when is_binary(Expected), is_binary(New) ->
    with_name(Key, fun(Name) ->
        written(hornbeam_state:cas_encoded(Name, hornbeam_state:from_encoded(Expected),
                                           hornbeam_state:from_encoded(New)))
    end);
call(state_pop, {Key}) ->
    with_name(Key, fun(Name) -> {ok, hornbeam_state:pop_encoded(Name)} end);
call(state_keys, {Prefix}) when is_binary(Prefix); Prefix =:= undefined ->
    %% There may be millions.
    {task, fun() -> {ok, keys(Prefix)} end, infinity};
call(call, {Name, ArgsBlob, TimeoutMs})
        when is_binary(Name), is_binary(ArgsBlob), ?IS_TIMEOUT(TimeoutMs) ->
    hornbeam_functions:call_encoded(Name, ArgsBlob, TimeoutMs);
call(publish, {Topic, Blob}) when is_binary(Topic), is_binary(Blob) ->
    case hornbeam_pubsub:is_behind(Topic) of
        false -> hornbeam_pubsub:publish_encoded(Topic, Blob);
        true -> {task, fun() -> publish_after_others(Topic, Blob) end, infinity}
    end;
call(subscribe, {Pattern}) when is_binary(Pattern) ->
    written(hornbeam_pubsub:subscribe_worker(Pattern));
call(unsubscribe, {Pattern}) when is_binary(Pattern) ->
    {ok, hornbeam_pubsub:unsubscribe_worker(Pattern)};
call(rpc_call, {Node, Module, Function, ArgsBlob, TimeoutMs})
        when is_binary(Node), is_binary(Module), is_binary(Function), is_binary(ArgsBlob),
             ?IS_TIMEOUT(TimeoutMs) ->
    Target = {Node, Module, Function},
    %% It has a deadline of its own, which reaches the other node.
    {task, fun() -> hornbeam_rpc:call_encoded(Target, ArgsBlob, TimeoutMs) end, infinity};
call(rpc_cast, {Node, Module, Function, ArgsBlob})
        when is_binary(Node), is_binary(Module), is_binary(Function), is_binary(ArgsBlob) ->
    {task, fun() -> hornbeam_rpc:cast_encoded({Node, Module, Function}, ArgsBlob) end, infinity};
call(nodes, {}) ->
    {ok, [atom_to_binary(Node) || Node <- nodes()]};
call(node, {}) ->
    {ok, atom_to_binary(node())};
call(ping, {Node}) when is_binary(Node) ->
    {task, fun() -> hornbeam_rpc:ping(Node) end, infinity};
call(connect, {Node}) when is_binary(Node) ->
    {task, fun() -> hornbeam_rpc:connect(Node) end, infinity};
call(register_hook, {Path}) when is_binary(Path) ->
    written(hornbeam_hook_registry:join(Path));
call(unregister_hook, {Path}) when is_binary(Path) ->
    {ok, hornbeam_hook_registry:leave(Path)};
call(execute, {Path, Method, Args, Kwargs, TimeoutMs})
        when is_binary(Path), ?IS_METHOD(Method), is_binary(Args), is_binary(Kwargs),
             ?IS_TIMEOUT(TimeoutMs) ->
    Invocation = {Path, Method, Args, Kwargs, call},
    {task, fun() -> hornbeam_hook_call:run(Invocation) end, TimeoutMs};
call(stream, {Path, Method, Args, Kwargs, TimeoutMs})
        when is_binary(Path), ?IS_METHOD(Method), is_binary(Args), is_binary(Kwargs),
             ?IS_TIMEOUT(TimeoutMs) ->
    {stream, {Path, Method, Args, Kwargs, stream}, TimeoutMs};
call(Function, Args) ->
    {error, {unknown_function, #{function => Function, arity => tuple_size(Args)}}}.

%% @doc The same for what wants no answer. What is wrong with it shows in the log alone.
-spec cast(Function :: atom(), Args :: tuple()) ->
    result() | {task, hornbeam_task:task(), timeout()}.
cast(cast, {Name, ArgsBlob}) when is_binary(Name), is_binary(ArgsBlob) ->
    hornbeam_functions:cast_encoded(Name, ArgsBlob);
cast(Function, Args) ->
    case call(Function, Args) of
        %% Nobody would learn its number.
        {stream, _, _} -> {error, {unknown_function, #{function => stream, arity => 5}}};
        Answer -> Answer
    end.

%%% Internal

with_name(Key, Fun) ->
    with_names([Key], fun([Name]) -> Fun(Name) end).

with_names(Keys, Fun) ->
    case names(Keys, []) of
        {ok, Names} -> Fun(Names);
        {error, _} = Error -> Error
    end.

names([{key, Blob} | Keys], Names) when is_binary(Blob) ->
    case hornbeam_blob:decode(Blob) of
        {ok, Key} -> names(Keys, [hornbeam_state_table:name(Key, Blob) | Names]);
        {error, _} = Error -> Error
    end;
names([Key | Keys], Names) ->
    names(Keys, [hornbeam_state_table:name(Key) | Names]);
names([], Names) ->
    {ok, lists:reverse(Names)}.

publish_after_others(Topic, Blob) ->
    ok = hornbeam_fanout:catch_up(),
    hornbeam_pubsub:publish_encoded(Topic, Blob).

keys(Prefix) ->
    [hornbeam_state_table:key_blob(Name) || Name <- hornbeam_state_table:names(Prefix)].

written(ok) -> {ok, true};
written(IsWritten) when is_boolean(IsWritten) -> {ok, IsWritten};
written({error, _} = Error) -> Error.
