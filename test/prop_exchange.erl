%% SPDX-License-Identifier: Apache-2.0
%% One exchange, to which anything comes in any order: what Cowboy is told is a response that
%% makes sense, or a part of one, and only a response that its worker has ended looks complete.
-module(prop_exchange).

-include("hornbeam_proper.hrl").

-import(proper_types, [boolean/0, integer/2, list/1, oneof/1]).

-export([prop_response_makes_sense/0]).
%% The transport.
-export([messages/0, setopts/2]).

-define(NAME, ?MODULE).
-define(SCOPE, {<<"GET">>, <<"http">>, <<"1.1">>, <<"/">>, <<>>, [], undefined, undefined, #{}}).

-define(MAX_WINDOW, 1 bsl 30).

%% Which command may come in which state of the response.
-define(ORDER, #{
    {none, inform} => none, {none, response} => complete, {none, headers} => body,
    {body, data_nofin} => body, {body, data_fin} => complete, {body, trailers} => complete,
    {none, cut} => cut, {body, cut} => cut, {complete, cut} => cut, {cut, cut} => cut
}).

prop_response_makes_sense() ->
    Versions = oneof(['HTTP/1.1', 'HTTP/2']),
    ?FORALL({Version, HasBody, Events}, {Versions, boolean(), list(event())}, begin
        flush(),
        {Routes, Load} = publish(),
        {Final, Exchange} = run(Events, begin_exchange(Version, HasBody)),
        ok = hornbeam_exchange:terminate(Exchange),
        Detached = listeners(Routes) =:= [],
        InFlight = hornbeam_load:in_flight(Load) >= hornbeam_routes:count(Routes),
        hornbeam_selection:forget(?NAME),
        hornbeam_routes:delete(Routes),
        Final =/= wrong andalso Detached andalso InFlight
    end).

event() ->
    Part = oneof([<<>>, <<"x">>, <<0:300/unit:8>>]),
    oneof([
        {worker, {response, 200, [], Part}}, {worker, {start, 200, [], Part}},
        {worker, {start, 204, [], Part}}, {worker, {data, Part}}, {worker, {data, Part}},
        {worker, {last, Part}}, {worker, {trailers, [{<<"x">>, <<"y">>}]}},
        {worker, {inform, 103, []}}, {worker, {abort}}, {worker, {timeout}},
        {worker, {worker_down}}, {worker, {worker_replaced}}, {worker, {returned, Part}},
        {worker, {credit, integer(1, 300)}}, {worker, {waiting, integer(0, 2)}},
        {worker, {accept, undefined, []}}, {late, {last, Part}},
        {info, {pool, retry}}, {info, {pool, timeout}}, {info, {data, fin, <<>>}},
        {info, {body_timeout, make_ref()}},
        {data, nofin, Part}, {data, fin, Part}, own
    ]).

publish() ->
    _ = ets:whereis(hornbeam_selection) =:= undefined andalso hornbeam_selection:create_table(),
    {Routes, Load} = {hornbeam_routes:new(), hornbeam_load:new()},
    hornbeam_load:open(Load),
    Waiting = hornbeam_selection:new_waiting(5),
    ok = hornbeam_selection:publish(?NAME, [{self(), self(), Routes, Load}], 100, Waiting, asgi),
    {Routes, Load}.

begin_exchange(Version, HasBody) ->
    Req = #{version => Version, method => <<"GET">>, has_body => HasBody, headers => #{},
            body_length => case HasBody of true -> 1000; false -> 0 end},
    Connection = #{activity => atomics:new(5, []), socket => none, tcp => none,
                   transport => ?MODULE, active_n => 1},
    Server = #{name => ?NAME, timeout => infinity, body_timeout => infinity,
               send_timeout => infinity, max_body => 2000, window => 1000, max_skipped => 100,
               retry => true, queue_timeout => infinity, server_header => undefined, date_header => false},
    Request = hornbeam_request:new(1, Req, Server, Connection),
    hornbeam_exchange:proceed(hornbeam_exchange:new(?SCOPE, undefined, Req, Request)).

%% The state of the response, and whether its worker has ended it.
run(Events, {Commands, Exchange}) ->
    run(Events, respond(Commands, {none, false}), Exchange).

run(_, {wrong, _}, Exchange) ->
    {wrong, Exchange};
run([], {State, _}, Exchange) ->
    {State, Exchange};
run([Event | Events], {State, IsEnded0}, Exchange0) ->
    IsEnded = IsEnded0 orelse ends(Event),
    {Commands, Exchange} = apply_event(Event, Exchange0),
    case lists:member(stop, Commands) orelse is_error(Commands) of
        true -> run([], respond(Commands, {State, IsEnded}), Exchange);
        false -> run(Events, respond(Commands, {State, IsEnded}), Exchange)
    end.

ends({worker, Message}) -> lists:member(element(1, Message), [last, trailers, response]);
ends(_) -> false.

is_error(Commands) ->
    lists:keymember(internal_error, 1, [C || C <- Commands, is_tuple(C)]).

apply_event({worker, Message}, Exchange) ->
    case listeners(routes()) of
        [] -> {[], Exchange};
        [Id] -> from_worker(Message, Id, Exchange)
    end;
apply_event({late, Message}, Exchange) ->
    hornbeam_exchange:info(with_id(Message, 1000000), Exchange);
apply_event({info, Message}, Exchange) ->
    hornbeam_exchange:info(Message, Exchange);
apply_event({data, IsFin, Data}, Exchange) ->
    hornbeam_exchange:data(IsFin, Data, Exchange);
%% What it has told itself, if anything.
apply_event(own, Exchange) ->
    receive
        {{Pid, 1}, Message} when Pid =:= self() -> hornbeam_exchange:info(Message, Exchange)
    after 0 ->
        {[], Exchange}
    end.

with_id(Message, Id) ->
    erlang:insert_element(2, Message, Id).

%% The route goes before these are told.
from_worker(Message, Id, Exchange)
        when element(1, Message) =:= response; element(1, Message) =:= start ->
    %% These leave their mark on the route.
    Told = with_id(Message, Id),
    _ = hornbeam_routes:deliver(routes(), Told, ?MAX_WINDOW),
    receive {{Pid, 1}, Told} when Pid =:= self() -> hornbeam_exchange:info(Told, Exchange) end;
from_worker(Message, Id, Exchange) ->
    Ends = [worker_down, worker_replaced, returned],
    _ = lists:member(element(1, Message), Ends) andalso ets:delete(routes(), Id),
    hornbeam_exchange:info(with_id(Message, Id), Exchange).

routes() ->
    [{_, _, [{worker, _, _, Routes, _}], _, _, _}] = ets:lookup(hornbeam_selection, ?NAME),
    Routes.

respond(Commands, Before) ->
    lists:foldl(fun respond_one/2, Before, Commands ++ cuts()).

%% HTTP/1: hornbeam_connection:cut/1 has Cowboy see an error of the socket.
cuts() ->
    receive
        {tcp_error, none, econnaborted} -> [{internal_error, cut, 'The socket.'}]
    after 0 ->
        []
    end.

respond_one(Command, {State, IsEnded}) ->
    case kind(Command) of
        other ->
            {State, IsEnded};
        Kind ->
            Next = maps:get({State, Kind}, ?ORDER, wrong),
            IsForged = State =:= body andalso Next =:= complete andalso not IsEnded,
            {case IsForged of true -> wrong; false -> Next end, IsEnded}
    end.

kind({inform, _, _}) -> inform;
kind({response, _, _, _}) -> response;
kind({headers, _, _}) -> headers;
kind({data, nofin, _}) -> data_nofin;
kind({data, fin, _}) -> data_fin;
kind({trailers, _}) -> trailers;
kind({internal_error, _, _}) -> cut;
kind(_) -> other.

listeners(Routes) ->
    [Id || {Id, Pid, _, _, _} <- ets:tab2list(Routes), is_pid(Pid)].

flush() ->
    receive _ -> flush() after 0 -> ok end.

messages() -> {tcp, tcp_closed, tcp_error, tcp_passive}.
setopts(_, _) -> ok.
