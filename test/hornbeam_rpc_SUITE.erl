%% SPDX-License-Identifier: Apache-2.0
%% Functions of other nodes, as a worker calls them. The nodes are peers of the suite's own.
-module(hornbeam_rpc_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([results/1]).
-export([exceptions/1]).
-export([timeouts_cancel/1]).
-export([ends_with_its_owner/1]).
-export([killed_over_there/1]).
-export([node_that_is_not_there/1]).
-export([node_that_goes/1]).
-export([no_atom_is_made/1]).
-export([new_names_of_nodes/1]).
-export([new_names_are_bounded/1]).
-export([own_name/1]).
-export([bad_arguments/1]).
-export([allowed_is_enforced/1]).
-export([bad_options/1]).
-export([casts/1]).
-export([nodes_and_node/1]).
-export([from_a_worker/1]).

%% Called on the nodes.
-export([ask/2]).
-export([ask_for/3]).
-export([start_waiting/1]).
-export([wait/1]).
-export([tell/2]).
-export([registered_waiter/1]).

all() ->
    [
        results,
        exceptions,
        timeouts_cancel,
        ends_with_its_owner,
        killed_over_there,
        node_that_is_not_there,
        node_that_goes,
        no_atom_is_made,
        new_names_of_nodes,
        new_names_are_bounded,
        own_name,
        bad_arguments,
        allowed_is_enforced,
        bad_options,
        casts,
        nodes_and_node,
        from_a_worker
    ].

init_per_suite(Config) ->
    _ = application:stop(hornbeam),
    Cluster = {_, Peers} = hornbeam_test_cluster:start(2),
    %% Modules are loaded when they are called first; their names are to be known before.
    [{module, _} = hornbeam_test_cluster:call(Peer, code, ensure_loaded, [?MODULE])
     || Peer <- Peers],
    [{cluster, Cluster} | Config].

end_per_suite(Config) ->
    hornbeam_test_cluster:stop(proplists:get_value(cluster, Config)).

init_per_testcase(_, Config) ->
    {_, [One, Two]} = proplists:get_value(cluster, Config),
    [{one, One}, {two, Two} | hornbeam_test_server:new_folder(Config)].

end_per_testcase(_, Config) ->
    hornbeam_test_cluster:call(one(Config), application, unset_env, [hornbeam, rpc_allow]),
    _ = application:stop(hornbeam),
    application:unset_env(hornbeam, rpc_allow).

%% Of another node, and of its own.
results(Config) ->
    ?assertEqual({ok, [1, 2, 3]}, rpc(Config, two(Config), lists, seq, [1, 3], 5000)),
    ?assertEqual({ok, node_of(two(Config))}, rpc(Config, two(Config), erlang, node, [], infinity)),
    ?assertEqual({ok, node_of(one(Config))}, rpc(Config, one(Config), erlang, node, [], 5000)).

exceptions(Config) ->
    [begin
         {error, {remote_error, Facts}} = rpc(Config, two(Config), erlang, Function, Args, 5000),
         ?assertMatch(#{class := Class, reason := Reason, stack := _}, Facts)
     end || {Function, Args, Class, Reason} <- [
         {error, [<<"oops">>], <<"error">>, <<"<<\"oops\">>">>},
         {throw, [1], <<"throw">>, <<"1">>},
         {exit, [normal], <<"exit">>, <<"normal">>},
         {list_to_integer, ["x"], <<"error">>, <<"badarg">>},
         {node, [1, 2, 3], <<"error">>, <<"undef">>}
     ]],
    {error, {remote_error, #{stack := Stack}}} =
        rpc(Config, two(Config), lists, reverse, [not_a_list], 5000),
    ?assertMatch({0, _}, binary:match(Stack, <<"lists:reverse/1">>)).

%% The process over there is gone, also one that traps exits.
timeouts_cancel(Config) ->
    ?assertEqual({error, {timeout, #{timeout_ms => 100}}},
                 rpc(Config, two(Config), ?MODULE, wait, [true], 100)),
    await_no_waiter(Config),
    ?assertEqual({error, {timeout, #{timeout_ms => 0}}},
                 rpc(Config, two(Config), ?MODULE, wait, [false], 0)),
    await_no_waiter(Config).

%% Whoever asked has gone: nobody wants the result.
ends_with_its_owner(Config) ->
    Args = call_args(two(Config), ?MODULE, wait, [false], infinity),
    Owner = hornbeam_test_cluster:call(one(Config), ?MODULE, start_waiting, [Args]),
    hornbeam_test_wait:until(fun() -> waiter(Config) =/= undefined end),
    true = hornbeam_test_cluster:call(one(Config), erlang, exit, [Owner, kill]),
    await_no_waiter(Config).

killed_over_there(Config) ->
    Args = call_args(two(Config), erlang, apply, [fun() -> exit(self(), kill) end, []], 5000),
    ?assertMatch({error, {remote_error, #{class := <<"exit">>, reason := <<"killed">>}}},
                 ask_on(Config, rpc_call, Args)).

node_that_is_not_there(Config) ->
    %% Known as an atom, and nothing listens there.
    Node = 'nobody@127.0.0.1',
    _ = hornbeam_test_cluster:call(one(Config), erlang, atom_to_list, [Node]),
    Args = {atom_to_binary(Node), <<"lists">>, <<"seq">>, hornbeam_blob:encode([1, 2]), 5000},
    ?assertEqual({error, {node_down, #{node => <<"nobody@127.0.0.1">>}}},
                 ask_on(Config, rpc_call, Args)),
    ?assertEqual({ok, false}, ask_on(Config, ping, {atom_to_binary(Node)})),
    ?assertEqual({ok, false}, ask_on(Config, connect, {atom_to_binary(Node)})).

%% The caller does not wait for the deadline.
node_that_goes(_) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Args = call_args(Two, ?MODULE, wait, [false], infinity),
    {module, _} = hornbeam_test_cluster:call(Two, code, ensure_loaded, [?MODULE]),
    {module, _} = hornbeam_test_cluster:call(One, code, ensure_loaded, [?MODULE]),
    {Pid, Monitor} = spawn_monitor(fun() ->
        exit({answer, hornbeam_test_cluster:call(One, ?MODULE, ask, [rpc_call, Args])})
    end),
    hornbeam_test_wait:until(fun() -> registered_on(Two) =/= undefined end),
    peer:stop(element(1, Two)),
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            Node = atom_to_binary(hornbeam_test_cluster:node_of(Two)),
            ?assertEqual({answer, {error, {node_down, #{node => Node}}}}, Reason)
    end,
    hornbeam_test_cluster:stop(Cluster).

no_atom_is_made(Config) ->
    Node = atom_to_binary(node_of(two(Config))),
    Args = hornbeam_blob:encode([]),
    [begin
         Name = <<"hornbeam_rpc_no_such_", (integer_to_binary(N))/binary, "_name">>,
         Call = setelement(N, {Node, <<"lists">>, <<"seq">>, Args, 5000}, Name),
         Cast = setelement(N, {Node, <<"lists">>, <<"seq">>, Args}, Name),
         Error = {error, {unknown_atom, #{text => Name}}},
         ?assertEqual(Error, ask_on(Config, rpc_call, Call)),
         ?assertEqual(Error, ask_on(Config, rpc_cast, Cast)),
         ?assertEqual(Error, ask_on(Config, ping, {Name})),
         ?assertEqual(Error, ask_on(Config, connect, {Name})),
         ?assertError(badarg, binary_to_existing_atom(Name))
     end || N <- [1, 2, 3]],
    Long = binary:copy(<<"x">>, 300),
    ?assertEqual({error, {unknown_atom, #{text => Long}}}, ask_on(Config, ping, {Long})),
    NotText = <<255, 254>>,
    ?assertEqual({error, {unknown_atom, #{text => NotText}}}, ask_on(Config, ping, {NotText})).

%% A node has to be named once before its name is known; other names of it stay unknown.
new_names_of_nodes(Config) ->
    Unique = list_to_binary(["hornbeam_rpc_new_", integer_to_list(erlang:system_time())]),
    Name = <<Unique/binary, "@127.0.0.1">>,
    Bad = [Unique, <<Unique/binary, "@">>, <<"@", Unique/binary>>, <<Unique/binary, "@a b">>,
           <<Unique/binary, "@a@b">>, <<Unique/binary, "@", (binary:copy(<<"a">>, 255))/binary>>,
           <<Unique/binary, "@\n">>, <<Unique/binary, "@", 255>>],
    [?assertEqual({error, {unknown_atom, #{text => Text}}}, ask_on(Config, Function, {Text}))
     || Text <- Bad, Function <- [ping, connect]],
    Call = {Name, <<"lists">>, <<"seq">>, hornbeam_blob:encode([1, 2]), 5000},
    ?assertEqual({error, {unknown_atom, #{text => Name}}}, ask_on(Config, rpc_call, Call)),
    ?assertEqual({ok, false}, ask_on(Config, ping, {Name})),
    ?assertEqual({ok, false}, ask_on(Config, connect, {Name})),
    ?assertMatch({error, {node_down, _}}, ask_on(Config, rpc_call, Call)).

%% Names make no atoms without end, and those that are known still work.
new_names_are_bounded(_) ->
    Prefix = list_to_binary(["hornbeam_rpc_many_", integer_to_list(erlang:system_time())]),
    Cluster = {_, [Peer]} = hornbeam_test_cluster:start(1),
    Name = fun(N) -> <<Prefix/binary, (integer_to_binary(N))/binary, "@127.0.0.1">> end,
    Results = hornbeam_test_cluster:call(Peer, lists, map,
        [fun(Text) -> hornbeam_rpc:connect(Text) end, [Name(N) || N <- lists:seq(1, 1010)]]),
    ?assertEqual(lists:duplicate(1000, {ok, false}), lists:sublist(Results, 1000)),
    ?assertEqual([{error, {unknown_atom, #{text => Name(N)}}} || N <- lists:seq(1001, 1010)],
                 lists:nthtail(1000, Results)),
    hornbeam_test_cluster:stop(Cluster).

%% True also on a node that is not distributed, as this one, which makes no atoms of others.
own_name(Config) ->
    {ok, _} = application:ensure_all_started(hornbeam),
    Own = atom_to_binary(node()),
    ?assertEqual({{ok, true}, {ok, true}}, {hornbeam_rpc:ping(Own), hornbeam_rpc:connect(Own)}),
    One = atom_to_binary(node_of(one(Config))),
    ?assertEqual({ok, true}, ask_on(Config, ping, {One})),
    ?assertEqual({ok, true}, ask_on(Config, connect, {One})),
    Other = list_to_binary(["hornbeam_rpc_other_", integer_to_list(erlang:system_time()), "@host"]),
    ?assertEqual({nonode@nohost, {ok, false}}, {node(), hornbeam_rpc:ping(Other)}),
    ?assertError(badarg, binary_to_existing_atom(Other)).

bad_arguments(Config) ->
    Node = atom_to_binary(node_of(two(Config))),
    [?assertMatch({error, {Error, _}},
                  ask_on(Config, rpc_call, {Node, <<"lists">>, <<"seq">>, Blob, 5000}))
     || {Error, Blob} <- [{bad_arguments, hornbeam_blob:encode(1)}, {undecodable, <<131, 108>>}]],
    [?assertMatch({error, {unknown_function, _}}, ask_on(Config, rpc_call, Args))
     || Args <- [{Node, lists, <<"seq">>, <<131, 106>>, 1}, {Node, <<"lists">>, <<"seq">>, [], 1},
                 {Node, <<"lists">>, <<"seq">>, <<131, 106>>, -1}, {}]].

%% What is not on the list is refused before anything else is looked at; calls and casts alike.
allowed_is_enforced(Config) ->
    Allowed = [{lists, seq}, {string, '_'}],
    ok = hornbeam_test_cluster:call(one(Config), application, set_env,
                                    [hornbeam, rpc_allow, Allowed]),
    ?assertEqual({ok, [1, 2]}, rpc(Config, two(Config), lists, seq, [1, 2], 5000)),
    ?assertEqual({ok, 3}, rpc(Config, two(Config), string, length, ["abc"], 5000)),
    [begin
         Error = {error, {not_allowed, #{module => Module, function => Function}}},
         Cast = {Node, Module, Function, <<131, 106>>},
         ?assertEqual(Error, ask_on(Config, rpc_call, erlang:append_element(Cast, 5000))),
         ?assertEqual(Error, ask_on(Config, rpc_cast, Cast))
     end || {Module, Function} <- [{<<"lists">>, <<"reverse">>}, {<<"os">>, <<"cmd">>},
                                   {<<"no such module">>, <<"seq">>}, {<<"lists">>, <<"_">>}],
            Node <- [atom_to_binary(node_of(two(Config))), <<"no such node">>]],
    ok = hornbeam_test_cluster:call(one(Config), application, set_env, [hornbeam, rpc_allow, []]),
    ?assertMatch({error, {not_allowed, _}}, rpc(Config, two(Config), lists, seq, [1, 2], 5000)).

%% The application does not start with a list that is none.
bad_options(_) ->
    _ = application:load(hornbeam),
    [begin
         application:set_env(hornbeam, rpc_allow, Bad),
         {error, Reason} = hornbeam:start("app:app"),
         ?assertMatch({invalid_options, #{errors := [#{key := rpc_allow, value := Bad}]}}, Reason)
     end || Bad <- [none, [lists], [{"lists", seq}], [{lists, seq} | x], {lists, seq}]].

casts(Config) ->
    Pid = hornbeam_test_cluster:call(one(Config), hornbeam_pubsub_SUITE, new_subscriber, []),
    ?assertEqual({ok, true}, ask_on(Config, rpc_cast,
        {atom_to_binary(node_of(two(Config))), atom_to_binary(?MODULE), <<"tell">>,
         hornbeam_test_cluster:call(one(Config), hornbeam_blob, encode, [[Pid, hello]])})),
    hornbeam_test_wait:until(fun() ->
        hornbeam_test_cluster:call(one(Config), hornbeam_pubsub_SUITE, messages_of, [Pid])
            =:= [{told, hello}]
    end).

nodes_and_node(Config) ->
    Two = atom_to_binary(node_of(two(Config))),
    ?assertEqual({ok, true}, ask_on(Config, ping, {Two})),
    ?assertEqual({ok, true}, ask_on(Config, connect, {Two})),
    {ok, Nodes} = ask_on(Config, nodes, {}),
    ?assert(lists:member(Two, Nodes)),
    ?assertEqual({ok, atom_to_binary(node_of(one(Config)))}, ask_on(Config, node, {})).

%% Over the port, on a node without distribution: its own functions can be called.
from_a_worker(Config) ->
    Port = hornbeam_test_services:start(Config),
    Call = fun(Function, Args) -> hornbeam_test_services:call(Port, Function, Args) end,
    Node = atom_to_list(node()),
    ?assertEqual(<<"ok ", (atom_to_binary(node()))/binary>>, Call("node", "()")),
    ?assertEqual(<<"ok [1,2]">>,
                 Call("rpc_call", ["(b'", Node, "', b'lists', b'seq', blob([1, 2]), infinity)"])),
    ?assertEqual(<<"error unknown_atom">>, Call("ping", "(b'no such node',)")),
    ok = hornbeam:stop().

%%% On the nodes

%% As a worker asks.
ask(Function, Args) ->
    case hornbeam_services:call(Function, Args) of
        {task, Task, TimeoutMs} -> hornbeam_task:run(Task, TimeoutMs);
        Result -> Result
    end.

start_waiting(Args) ->
    spawn(?MODULE, ask_for, [rpc_call, Args, infinity]).

ask_for(Function, Args, _) ->
    ask(Function, Args).

%% Registers itself to be found, and stays.
wait(IsTrapping) ->
    _ = process_flag(trap_exit, IsTrapping),
    true = register(?MODULE, self()),
    wait_on().

wait_on() ->
    receive _ -> wait_on() end.

registered_waiter(_) ->
    whereis(?MODULE).

tell(Pid, What) ->
    Pid ! {told, What}.

%%% Internal

rpc(Config, Peer, Module, Function, Args, TimeoutMs) ->
    case ask_on(Config, rpc_call, call_args(Peer, Module, Function, Args, TimeoutMs)) of
        {ok, Blob} -> {ok, binary_to_term(Blob)};
        Error -> Error
    end.

call_args(Peer, Module, Function, Args, TimeoutMs) ->
    {atom_to_binary(node_of(Peer)), atom_to_binary(Module), atom_to_binary(Function),
     hornbeam_blob:encode(Args), TimeoutMs}.

ask_on(Config, Function, Args) ->
    hornbeam_test_cluster:call(one(Config), ?MODULE, ask, [Function, Args]).

waiter(Config) ->
    registered_on(two(Config)).

registered_on(Peer) ->
    hornbeam_test_cluster:call(Peer, ?MODULE, registered_waiter, [now]).

await_no_waiter(Config) ->
    hornbeam_test_wait:until(fun() -> waiter(Config) =:= undefined end).

one(Config) -> proplists:get_value(one, Config).

two(Config) -> proplists:get_value(two, Config).

node_of(Peer) -> hornbeam_test_cluster:node_of(Peer).
